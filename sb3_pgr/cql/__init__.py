from sb3_pgr.cql.cql import CQL
from sb3_pgr.cql.policies import MlpPolicy, MultiInputPolicy

__all__ = ["CQL", "MlpPolicy", "MultiInputPolicy"]
