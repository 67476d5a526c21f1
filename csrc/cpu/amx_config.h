// How the tiles of AMX are used: all eight of 16 rows of 64 bytes.
#pragma once

#include <stdint.h>

namespace fusegrad {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, none[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig kWholeTiles;

}  // namespace fusegrad
