// Which version of the library this is.
#pragma once

// Semantic versioning. Until 1.0 a new minor version may rename or remove what it has; a new patch
// version does not. Caches and query moments that a version has saved are loaded by later ones.
#define SQUAT_VERSION_MAJOR 0
#define SQUAT_VERSION_MINOR 1
#define SQUAT_VERSION_PATCH 0
