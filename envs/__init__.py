if __name__ != "phalanx.envs":
    raise ImportError(f"this folder is imported as phalanx.envs, not as {__name__}: write 'import phalanx.envs'")
