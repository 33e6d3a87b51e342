from sb3_pgr.redq.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, SimbaPolicy
from sb3_pgr.redq.redq import REDQ

__all__ = ["REDQ", "CnnPolicy", "MlpPolicy", "MultiInputPolicy", "SimbaPolicy"]
