"""Puts the files that have their only home at the top level into the built packages.

All else is declared in setup.cfg.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithTopLevelFiles(build_py):
    """Copies configs/ and LICENSE next to the code that reads them in an installed wheel.

    An editable install needs no copy: there the code finds the originals.
    """

    def run(self):
        super().run()
        if not self.editable_mode:
            # A config that was renamed since the last build must not live on in build/.
            shutil.rmtree(self._config_dir(), ignore_errors=True)
            for source, target in self._top_level_files().items():
                self.mkpath(str(Path(target).parent))
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode=True):
        return super().get_outputs(include_bytecode) + list(self._top_level_files().values())

    def _config_dir(self):
        return Path(self.build_lib, "queryinst", "model_zoo", "configs")

    def _top_level_files(self):
        files = {ROOT / "LICENSE": str(Path(self.build_lib, "queryinst_setup", "LICENSE"))}
        for config in sorted((ROOT / "configs").rglob("*.yaml")):
            files[config] = str(self._config_dir() / config.relative_to(ROOT / "configs"))
        return files


setup(cmdclass={"build_py": BuildWithTopLevelFiles})
