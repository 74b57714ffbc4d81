"""Stands in for Conan Center's eigen where that cannot be reached: Debian's libeigen3-dev under the
same name, version and targets."""

import re
from pathlib import Path

from conan import ConanFile
from conan.tools.files import copy

installed = Path("/usr/include/eigen3")


class EigenConan(ConanFile):
    name = "eigen"
    package_type = "header-library"

    def set_version(self):
        macros = (installed / "Eigen/src/Core/util/Macros.h").read_text()
        parts = (re.search(rf"#define EIGEN_{part}_VERSION (\d+)", macros)[1]
                 for part in ("WORLD", "MAJOR", "MINOR"))
        self.version = ".".join(parts)

    def package(self):
        copy(self, "*", src=installed, dst=Path(self.package_folder, "include/eigen3"))

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.includedirs = ["include/eigen3"]
        self.cpp_info.set_property("cmake_file_name", "Eigen3")
        self.cpp_info.set_property("cmake_target_name", "Eigen3::Eigen")
        self.cpp_info.set_property("pkg_config_name", "eigen3")
