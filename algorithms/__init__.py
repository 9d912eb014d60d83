if __name__ != "phalanx.algorithms":
    raise ImportError(
        f"this folder is imported as phalanx.algorithms, not as {__name__}: write 'import phalanx.algorithms'"
    )
