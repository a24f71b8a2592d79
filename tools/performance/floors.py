"""What scoring an episode costs at least: matrix products, functions and bytes, from the definition of a head alone.

Counted are the sizes of an episode and what the head is defined by, never what our code does. N ways, K shots, Q queries of an
episode (N times the queries per class), T frames, C width. A product of `[b, m, k]` and `[b, k, n]` has 2 b m k n operations;
functions are exponentials, logarithms and the like. Additions, comparisons and gathers are not counted, nor is what a video alone
decides, which is computed once a video. Bytes are float32 of what is kept of the episode's videos, read once, and of the scores
`[Q, N]`, written once.

- Matching of frames: all cosines of frames are one product, `[Q T, C] x [C, N K T]`.
- MatchingNet: an exponential for each pair of frames; the attention of each class takes a logarithm per frame and an exponential
  per class and frame.
- OTAM: two directions of Q N K alignments. A recursion has (T - 1) T steps of one exponential and one logarithm, and ends in T
  exponentials and a logarithm.
- A class that is the mean of its shots counts as K = 1, once its N K T C numbers are read.
- TRX, per tuple size w: products of the R = w T rows of keys, and of values, in the width of rows (`[Q R, W] x [W, N K R]` each)
  or in that of frames, whichever is less (`[Q T, C] x [C, N K w R]`: what a support's rows are to each place of a query, the
  support alone decides); Q N exponentials for each of M tuples with K M others, M = T over w; and the norm of a mean of values,
  which is one of rows, by the inner products of the rows of a class (`[Q M, K R] x [K R, K R]`, N times; for K > 1 they are
  themselves a product) or by the mean itself (`[Q M, K R] x [K R, W]`, N times), whichever is less.
- HyRSM: attention over N + 1 videos per query, of which those between supports are shared; its weighted sums of what each head's
  output is of a video, which a video alone decides; the attention's part of the merging layer on Q (N + 1) videos, whose weight
  all episodes share; cosines of frames that were moved by their video's place, expanded into products of frames and places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb

FLOAT = 4  # bytes
HEADS = 8  # of HyRSM's attention


@dataclass(frozen=True)
class Sizes:
    """Sizes of an episode: N, K, queries per class, T and C."""

    way: int = 5
    shot: int = 1
    query: int = 1
    frames: int = 8
    width: int = 512

    @property
    def queries(self) -> int:
        """Q."""
        return self.way * self.query

    @property
    def videos(self) -> int:
        """Videos of an episode."""
        return self.way * self.shot + self.queries


@dataclass(frozen=True)
class Product:
    """Matrix products of one episode, `[batch, rows, inner] x [batch, inner, columns]`.

    Attributes:
        is_shared: the second factor is a weight: the rows of several episodes can be joined.
    """

    batch: int
    rows: int
    inner: int
    columns: int
    is_shared: bool = False

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.rows * self.inner * self.columns


@dataclass(frozen=True)
class Work:
    """What an episode costs at least.

    Attributes:
        products: its matrix products.
        functions: its exponentials, logarithms and the like.
        kept: numbers that are kept of each video, on average.
        sizes: of the episode.
    """

    products: tuple[Product, ...]
    functions: int
    kept: int
    sizes: Sizes

    @property
    def operations(self) -> int:
        """Of all products."""
        return sum(product.operations for product in self.products)

    @property
    def bytes(self) -> int:
        """Read and written."""
        return FLOAT * (self.sizes.videos * self.kept + self.sizes.queries * self.sizes.way)


def prototype(s: Sizes) -> Work:
    """Cosines of mean frames."""
    return Work((Product(1, s.queries, s.width, s.way),), 0, s.width, s)


def bi_mhm(s: Sizes) -> Work:
    """Cosines of frames, and their minima."""
    return Work((_frames(s, s.shot),), 0, s.frames * s.width, s)


def matching_net(s: Sizes) -> Work:
    """Cosines of frames, their softmax over all frames of the supports, and mean logarithms of the attention of each class."""
    Q, N, T = s.queries, s.way, s.frames
    functions = Q * T * N * s.shot * T + Q * T * (N + 1) + Q * N * (T + 1)
    return Work((_frames(s, s.shot),), functions, T * s.width, s)


def otam(s: Sizes) -> Work:
    """Cosines of frames, and alignments in both directions."""
    return Work((_frames(s, s.shot),), _alignments(s, s.shot), s.frames * s.width, s)


def with_text(s: Sizes) -> Work:
    """OTAM of mean shots, cosines of the mean frame with class texts, and a softmax of each over the classes."""
    texts = Product(1, s.queries, s.width, s.way)
    functions = _alignments(s, 1) + 2 * s.queries * (s.way + 1)
    return Work((_frames(s, 1), texts), functions, (s.frames + 1) * s.width, s)


def trx(s: Sizes, tuples: Sequence[int] = (2, 3), out: int = 1152) -> Work:
    """Attention between tuples of frames, in inner products of frames; `out` is W."""
    products: list[Product] = []
    functions = kept = 0
    for size in tuples:
        rows, M = size * s.frames, comb(s.frames, size)
        of_rows = Product(1, s.queries * rows, out, s.way * s.shot * rows)
        of_frames = Product(1, s.queries * s.frames, s.width, s.way * s.shot * size * rows)
        keys = min(of_rows, of_frames, key=lambda product: product.operations)
        products += [keys, keys, *_norm_of_means(s, rows, M, out)]
        functions += s.queries * s.way * M * s.shot * M
        support, query = 2 * rows * out, 2 * rows * out
        if keys is of_frames:
            support, query = 2 * size * rows * s.width, s.frames * s.width
        kept += s.way * s.shot * (support + 2 * M + rows * rows) + s.queries * (query + M)
    return Work(tuple(products), functions, kept // s.videos, s)  # supports and queries keep different numbers


def hyrsm(s: Sizes) -> Work:
    """Relations between the videos of each query's task, then Bi-MHM of the moved frames."""
    N, Q, T, C = s.way, s.queries, s.frames, s.width
    attention = (
        Product(1, N, C, N), Product(1, Q, C, N), Product(1, N, C, Q), Product(Q, 1, C, 1),
        Product(1, Q * (N + 1), HEADS * N, C), Product(Q, N + 1, HEADS, C),
    )  # fmt: skip
    merging = Product(1, Q * (N + 1), C, C, is_shared=True)
    cosines = (_frames(s, 1), Product(Q, T, C, N), Product(1, Q, C, N * T), Product(Q, N, C, 1))
    norms = (Product(N, T, C, Q), Product(Q, T, C, 1), Product(1, Q * (N + 1), C, 1))
    exponentials = HEADS * (N * N + Q * (2 * N + 1))
    return Work((*attention, merging, *cosines, *norms), exponentials, (T + 3 + HEADS) * C, s)


def _frames(s: Sizes, shots: int) -> Product:
    return Product(1, s.queries * s.frames, s.width, s.way * shots * s.frames)


def _alignments(s: Sizes, shots: int) -> int:
    """Functions of OTAM's recursion."""
    T = s.frames
    return 2 * s.queries * s.way * shots * (2 * (T - 1) * T + T + 1)


def _norm_of_means(s: Sizes, rows: int, tuples: int, out: int) -> list[Product]:
    """The cheaper way to the squared norms of the means that the attention of each tuple of a query makes of a class's values."""
    composed = [Product(s.way, s.queries * tuples, s.shot * rows, out)]
    inner = [Product(s.way, s.queries * tuples, s.shot * rows, s.shot * rows)]
    if s.shot > 1:
        inner.append(Product(s.way, s.shot * rows, out, s.shot * rows))
    return min(inner, composed, key=lambda products: sum(product.operations for product in products))


FLOORS: dict[str, Callable[[Sizes], Work]] = {
    "prototype": prototype,
    "matching_net": matching_net,
    "otam": otam,
    "bi_mhm": bi_mhm,
    "clip_fsar": with_text,
    "ma_clip": with_text,
    "hyrsm": hyrsm,
    "trx, pairs": lambda s: trx(s, (2,)),
    "trx": trx,
}
