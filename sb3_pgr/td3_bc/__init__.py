from sb3_pgr.td3_bc.policies import MlpPolicy, MultiInputPolicy
from sb3_pgr.td3_bc.td3_bc import TD3BC

__all__ = ["TD3BC", "MlpPolicy", "MultiInputPolicy"]
