"""Discovers packages: ``envs/`` and ``zoo_configs/`` stand at the top level but are imported below ``sb3_pgr``."""

from setuptools import find_packages, setup

MAPPED = {"sb3_pgr.envs": "envs", "sb3_pgr.zoo_configs": "zoo_configs"}

packages = find_packages(include=["sb3_pgr", "sb3_pgr.*"])
for name, folder in MAPPED.items():
    packages += [name, *(f"{name}.{sub}" for sub in find_packages(folder))]

setup(packages=packages, package_dir=MAPPED)
