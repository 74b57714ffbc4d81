"""Recipe for Conan 2. From the root of the repository: conan create .conan"""

import re
from pathlib import Path

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy

required_conan_version = ">=2.0"


class SquatConan(ConanFile):
    name = "squat"
    description = "A key-value cache for transformers in 2 to 5 bits"
    topics = ("kv-cache", "quantization", "transformer", "header-only")
    license = "MIT"
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"  # of the consumer: they change no package
    no_copy_source = True

    def set_version(self):
        cmake = Path(self.recipe_folder).parent.joinpath("CMakeLists.txt").read_text()
        self.version = re.search(r"project\(squat VERSION (\S+)", cmake)[1]

    def export_sources(self):
        root = Path(self.recipe_folder).parent
        for pattern in ("include/squat/*.hpp", "LICENSE"):
            copy(self, pattern, src=root, dst=self.export_sources_folder)

    def requirements(self):
        self.requires("eigen/[>=3.4.0 <4]", transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 17)

    def package_id(self):
        self.info.clear()

    def package(self):
        copy(self, "LICENSE", src=self.source_folder, dst=Path(self.package_folder, "licenses"))
        copy(self, "include/*", src=self.source_folder, dst=self.package_folder)

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.set_property("cmake_file_name", "squat")
        self.cpp_info.set_property("cmake_target_name", "squat::squat")
        self.cpp_info.set_property("pkg_config_name", "squat")
