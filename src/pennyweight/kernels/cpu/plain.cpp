// Plain C++: what every processor can do.
#include "portable.h"

namespace pennyweight {

const Door* plain() {
  static const Door door = portable("plain C++");
  return &door;
}

}  // namespace pennyweight
