// Other headers define some names as macros. They are back behind macros_end.hpp. Included as often
// as it is needed, so without an include guard.
#pragma push_macro("min")
#undef min
#pragma push_macro("max")
#undef max
#pragma push_macro("near")
#undef near
#pragma push_macro("far")
#undef far
#pragma push_macro("small")
#undef small
#pragma push_macro("I")
#undef I
