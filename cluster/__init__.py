if __name__ != "phalanx.cluster":
    raise ImportError(f"this folder is imported as phalanx.cluster, not as {__name__}: write 'import phalanx.cluster'")
