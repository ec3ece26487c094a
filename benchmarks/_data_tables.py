"""The results of data.py as Markdown; imports nothing but the standard library, as the documentation reads it."""


def minibatch(results: dict) -> str:
    """Losses on mini-batches after so many epochs."""
    rows = [
        "| run | loss on all images after 1 / 3 / 10 (bytes: 6) epochs | worst seed | test accuracy | seeds |",
        "|---|---|---|---|---|",
    ]
    for name, run in results["minibatch"].items():
        if "losses" in run:
            numbers = " | ".join(str(run[key]) for key in ("losses", "worst", "accuracy", "seeds"))
            rows.append(f"| {name} | {numbers} |")
    return "\n".join(rows)
