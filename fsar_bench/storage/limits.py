"""How large an episode plan may be: the same bound where one is asked for, drawn, stored and read. Imports nothing heavy."""

LARGEST_PLAN = 30_000_000  # supports and queries of all episodes: every machine can load and compare them
MOST_CLASSES = 10_000  # of a split: tables count how often each is taken for each
EXAMPLE = "1,000,000 episodes of 5-way 5-shot with one query per class just fit"


def plan_fault(*, way: int, shot: int, query: int, episodes: int, prefix: str = "") -> str:
    """What is wrong with the size of a plan, and the fix; empty if nothing is.

    Args:
        way: classes per episode.
        shot: supports per class.
        query: queries per class.
        episodes: number of episodes.
        prefix: what stands before the keys, such as "train.".
    """
    of_episode = way * (shot + query)
    clips = episodes * of_episode
    if clips <= LARGEST_PLAN:
        return ""
    sizes = f"{way} classes with {shot} + {query} clips"
    if of_episode > LARGEST_PLAN:
        return f"One episode of {sizes} has {of_episode:,} clips; at most {LARGEST_PLAN:,} are allowed. Lower shot= or query=."
    return (
        f"{prefix}episodes={episodes} of {sizes} make a plan of {clips:,} clips; at most {LARGEST_PLAN:,} are allowed "
        f"({EXAMPLE}). Lower {prefix}episodes= to {LARGEST_PLAN // of_episode} or less."
    )
