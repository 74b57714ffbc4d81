# An overlay port of the repository that it lies in. From its root:
# vcpkg install squat --overlay-ports=.vcpkg
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
set(VCPKG_BUILD_TYPE release) # headers alone

vcpkg_cmake_configure(SOURCE_PATH "${SOURCE_PATH}"
                      OPTIONS -DSQUAT_BUILD_TESTS=OFF -DSQUAT_BUILD_BENCHMARKS=OFF
                              -DSQUAT_BUILD_EXAMPLES=OFF)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME squat CONFIG_PATH share/cmake/squat)
vcpkg_fixup_pkgconfig()
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
