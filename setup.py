"Package metadata from settings.ini; pyproject.toml holds what tools read there."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent


def settings():
    "The keys of settings.ini."
    found = ConfigParser(delimiters=["="], interpolation=None)
    found.read(here/"settings.ini", encoding="utf-8")
    return found["DEFAULT"]


def extras(cfg):
    "Requirements of each extra; `dev` holds all of them."
    own = {k.removesuffix("_requirements"): v.split() for k, v in cfg.items() if k.endswith("_requirements")}
    return {**own, "dev": sorted({o for v in own.values() for o in v})}


def metadata(cfg):
    "What `setup` is given."
    return dict(
        version=cfg["version"], author=cfg["author"], license=cfg["license"],
        python_requires=f">={cfg['min_python']}",
        keywords=cfg["keywords"].split(), classifiers=cfg["classifiers"].strip().splitlines(),
        install_requires=cfg["requirements"].split(), extras_require=extras(cfg),
        long_description=(here/"README.md").read_text(encoding="utf-8"),
        long_description_content_type="text/markdown",
        entry_points={"console_scripts": cfg["console_scripts"].strip().splitlines(),
                      "nbdev": ["aam_nb=aam_nb._modidx:d"]},
        packages=find_packages(include=["aam_nb", "aam_nb.*"]),
        package_data={"aam_nb": ["recipes/*.toml", "shipped/*.md", "shipped/*.xz", "shipped/*/*"]},
        zip_safe=False,
    )


if __name__ == "__main__": setup(**metadata(settings()))
