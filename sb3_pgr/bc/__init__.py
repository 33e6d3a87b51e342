from sb3_pgr.bc.bc import BC
from sb3_pgr.bc.policies import MlpPolicy, MultiInputPolicy

__all__ = ["BC", "MlpPolicy", "MultiInputPolicy"]
