"""What conan create runs: a program that uses the package through CMake."""

from pathlib import Path

from conan import ConanFile
from conan.tools.build import can_run
from conan.tools.cmake import CMake, cmake_layout


class SquatTest(ConanFile):
    settings = "os", "arch", "compiler", "build_type"
    generators = "CMakeToolchain", "CMakeDeps", "PkgConfigDeps"

    def requirements(self):
        self.requires(self.tested_reference_str)

    def layout(self):
        cmake_layout(self)

    def build(self):
        cmake = CMake(self)
        # The program that every way of using squat is tested with.
        cmake.configure(build_script_folder="../../tests/consumers/find_package")
        cmake.build()

    def test(self):
        if not Path(self.generators_folder, "squat.pc").exists():
            raise Exception("there is no squat.pc")
        if can_run(self):
            self.run(str(Path(self.build_folder, self.cpp.build.bindir, "consumer")), env="conanrun")
