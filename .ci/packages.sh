# Sourced by the run scripts: install_missing PACKAGE... installs the Debian packages that this
# machine lacks, and touches nothing where none is.

is_installed() {
  case $1 in
    cmake | g++ | clang | clang-format) command -v "$1" ;;
    ninja-build) command -v ninja ;;
    gnuplot-nox) command -v gnuplot ;;
    *) ! command -v dpkg-query || [[ $(dpkg-query -W -f '${db:Status-Status}' "$1") == installed ]] ;;
  esac
} &>/dev/null

install_missing() {
  local package missing=()
  for package; do
    is_installed "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    echo "This needs root and apt-get. As root on Debian: apt-get install ${missing[*]}" >&2
    return 1
  fi
  echo "== Installing ${missing[*]} =="
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}
