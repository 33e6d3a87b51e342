from sb3_pgr.iql.iql import IQL
from sb3_pgr.iql.policies import MlpPolicy, MultiInputPolicy

__all__ = ["IQL", "MlpPolicy", "MultiInputPolicy"]
