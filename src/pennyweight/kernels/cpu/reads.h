// Numbers read back from 8-bit codes with one scale a row.
#pragma once
#include <cstdint>

namespace pennyweight {

// Rows [first, last) of codes [rows, columns] times their scales, rounded to bf16 or in fp32, into `to` [rows, columns].
void read_rows(const int8_t* codes, const float* scales, int64_t columns, int64_t first, int64_t last, bool bf16,
               void* to);

}  // namespace pennyweight
