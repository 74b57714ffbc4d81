#!/usr/bin/env bash
# Usage: run_consumer.sh NAME DIRECTORY
# Builds the consumer NAME in DIRECTORY, which is emptied first, and runs it. CTest sets CXX,
# EIGEN_INCLUDE, Eigen3_DIR, SQUAT_BUILD (the build tree that is installed from) and SQUAT_VERSION.
set -euo pipefail
consumers=$(cd "$(dirname "$0")" && pwd)
name=$1
directory=$2
rm -rf "$directory"
mkdir -p "$directory"
cd "$directory"

build_with_cmake() {
  cmake -S "$consumers/$name" -B build "$@"
  cmake --build build
  build/consumer
}

compile() {
  "$CXX" -std=c++17 -I"$consumers/../../include" -I"$EIGEN_INCLUDE" "$@" -o consumer
}

case $name in
  find_package)
    cmake --install "$SQUAT_BUILD" --prefix "$directory/prefix"
    others=$(find prefix/include -type f ! -name '*.hpp')
    [[ -z $others ]] || { echo "Installed as headers: $others" >&2; exit 1; }
    build_with_cmake -DCMAKE_PREFIX_PATH="$directory/prefix"
    ;;
  fetch_content)
    build_with_cmake
    ;;
  pkg_config)
    cmake --install "$SQUAT_BUILD" --prefix "$directory/installed"
    mv installed moved  # its paths follow
    export PKG_CONFIG_PATH=$directory/moved/share/pkgconfig
    pkg-config --print-errors --exact-version="$SQUAT_VERSION" squat
    read -ra flags < <(pkg-config --cflags squat)
    "$CXX" -std=c++17 "${flags[@]}" "$consumers/headers.cpp" -o consumer
    ./consumer
    ;;
  plain_include)
    compile "$consumers/headers.cpp"
    ./consumer
    ;;
  no_exceptions)
    compile -fno-exceptions "$consumers/no_exceptions/main.cpp"
    ulimit -c 0
    status=0
    ./consumer 2>message || status=$?
    cat message
    ((status == 128 + $(kill -l ABRT)))
    grep -q '^squat: shape.query_heads is 3;' message
    ;;
  narrow_index)
    # A program of 32 bits where the compiler can link one.
    narrow=-DEIGEN_DEFAULT_DENSE_INDEX_TYPE=int
    ! "$CXX" -m32 -x c++ - -o probe <<<'#include <fstream>
      int main() {}' 2>probe.log || narrow=-m32
    compile $narrow "$consumers/narrow_index/main.cpp"
    ./consumer "$consumers/../data/cache4.squat"
    ;;
  two_units)
    compile "$consumers/headers.cpp" "$consumers/two_units/second.cpp"
    ./consumer
    ;;
  declared)
    sed 's,squat/squat.hpp,squat/cache.hpp,' "$consumers/main.cpp" >main.cpp
    printf '%s\n' '#include <squat/squat.hpp>' 'template class squat::SQuatCache<float, 2>;' >cache.cpp
    compile main.cpp cache.cpp
    ./consumer
    ;;
  single_header)
    mkdir -p single/squat
    "$consumers/../amalgamate" single/squat/squat.hpp
    "$CXX" -std=c++17 -Isingle -I"$EIGEN_INCLUDE" "$consumers/main.cpp" -o consumer
    ./consumer
    ;;
  *)
    echo "run_consumer.sh: there is no consumer '$name'" >&2
    exit 2
    ;;
esac
