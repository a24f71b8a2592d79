"""How large an episode plan may be: the same bound where one is asked for, drawn, stored and read. Imports nothing heavy."""

LARGEST_PLAN = 30_000_000  # supports and queries of all episodes: every machine can load and compare them
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
    clips = episodes * way * (shot + query)
    if clips <= LARGEST_PLAN:
        return ""
    return (
        f"{prefix}episodes={episodes} with {way} classes of {shot} + {query} clips make a plan of {clips:,} clips; at most "
        f"{LARGEST_PLAN:,} are allowed ({EXAMPLE}). Lower {prefix}episodes= to {LARGEST_PLAN // (way * (shot + query))} or less."
        if way * (shot + query) <= LARGEST_PLAN
        else f"One episode of {prefix}way={way} with {shot} + {query} clips per class has {way * (shot + query):,} clips; at most "
        f"{LARGEST_PLAN:,} are allowed. Lower {prefix}shot= or the queries per class."
    )
