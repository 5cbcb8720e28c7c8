// The sum of the squares of many numbers, in double precision, where it is finite just if all of them are.
#pragma once
#include <cstdint>

namespace pennyweight {

// Of `size` numbers of fp32, or of bf16. In 32 partial sums, the same on every processor, so that the result is: the
// square of a number of 24 bits is exact.
double squares(const float* x, int64_t size);
double squares(const uint16_t* x, int64_t size);

}  // namespace pennyweight
