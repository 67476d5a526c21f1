// Layers one by one, on plain pointers: what the ops of a layer and of a chain share.
#pragma once

#include "kernels.h"

namespace fusegrad {

// gz = g D_1(s) and the sum of its rows, in one pass over g and s, into args.out and `sum`, which may be nullptr.
// Without a function gz is g, and not written, and there is no s.
void gz_and_sum(Type type, Elementwise f, const ElementwiseArgs& args, void* sum, double param);

// Whether a chain is one layer without an activation.
inline bool is_linear(const Chain& chain) { return chain.count == 1 && !chain.layers[0].value; }

// Of a chain whose gy has adjacent numbers in its rows: what the kernels do by panels, layer by layer. So `saved` is.
bool is_by_layers(const Chain& chain);
void chain_by_layers(const Chain& chain);
void chain_backward_by_layers(const Chain& chain);

}  // namespace fusegrad
