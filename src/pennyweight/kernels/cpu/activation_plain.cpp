// The loops over activation functions for every processor.
#define LOOP loop_plain
#include "activation_loops.h"
