// Linked with headers.cpp, which fails if a definition of the library is not inline.
#include <squat/squat.hpp>
