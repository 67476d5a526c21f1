// A chain that ends in one number a row, whose x requires a gradient: y, and its derivatives in x of two orders, as one
// node with what they need, so that all that a backward pass asks of them is one op.
//
// Of each row y is a number, G = dy/dx (k) and H = d^2y/dx^2 (k, k) are functions of x and the weights, and what is
// made of them for a user is linear in them: with c, t, p, q of each row, c and q numbers,
//
//     gx = c G + H t          the gradient of c y + <t, G> in x (slope)
//     l = <p, G>              the gradient of gx in c (along)
//
// and their cotangents, p of gx and q of l, become cotangents of G, H, c and t:
//
//     slope   of G: c p,  of H: p t^T,  of c: <p, G>, which is along(p),  of t: H p, which is slope(t = p)
//     along   of G: q p,                of p: q G, which is slope(c = q)
//
// So however often and along however many directions a user differentiates, what reaches x and the weights is a sum: c
// of y, t of G, f (k, k) of H, which autograd adds up. Their gradients are those of c y + D y[t] + sum_ij f_ij D^2
// y[e_i, e_j], one op of the kernels (csrc/cpu/chain_derivatives.h); where they are to be differentiated again, as gx
// is by slope if f is absent, else by layers (python/fusegrad/ops/chain_derivatives.py).
//
// G and H are never made. They are inputs of the node without a tensor; y has a node before it, as a hook on y is not
// to see a gradient that is not there.
#pragma once

#include <mutex>

#include "chain_second.h"
#include "direct.h"

namespace fusegrad {

constexpr uint32_t kOfY = 0, kOfG = 1, kOfH = 2;  // inputs of the node
constexpr int64_t kMostFeatures = 8;              // of x, for which f is worth while

struct ChainValueRule {
  static constexpr const char *kOp = "chain_value", *kNode = "ChainBackward";
  static size_t inputs(const Facts&) { return 1; }
  static variable_list backward(const Facts&, const Needed&, const variable_list& grads, const variable_list&) {
    return grads;
  }
};

// A bit for each bias, among l, x, w_1, b_1, ..., that no derivative of y depends on: no activation follows.
inline int64_t biases_of_y(const std::string& acts) {
  const std::vector<Activation> all = activations_of(acts);
  int64_t bits = 0;
  for (size_t i = all.size(); i-- > 0 && all[i].is_identity();) bits |= int64_t(1) << (3 + 2 * i);
  return bits;
}

// The gradients of gy y + D y[t] + sum f D^2 y, and D y[t] itself, each if the mask has its bit: l, gx, gw_1, gb_1, ...
inline variable_list chain_derivatives(const variable_list& of, const c10::IValue& acts, const at::Tensor& gy,
                                       const at::Tensor& t, const at::Tensor& f, const at::Tensor& cotangents,
                                       int64_t mask) {
  const at::Tensor& y = of[1];
  if (!gy.defined()) mask &= ~biases_of_y(acts.toStringRef());
  if (!t.defined() && !f.defined()) {
    variable_list found = chain_backward(gy, of, acts.toStringRef(), mask >> 1);
    found.insert(found.begin(), at::Tensor());  // l, which is zero, is not asked for
    return found;
  }
  static const Operator op("fusegrad::chain_derivatives");
  const c10::List<at::Tensor> found = op({if_any(gy), if_any(t), if_any(f), std::optional<at::Tensor>(), of[kX],
                                          weights_of(of), if_any(y), of[0], if_any(cotangents), acts, mask})[0]
                                          .toTensorList();
  variable_list result(found.size());
  for (size_t i = 0; i < result.size(); i++) {
    if (mask >> i & 1) result[i] = found[i];
  }
  return result;
}

struct ChainDerivativesRule {
  static constexpr const char *kOp = "chain_derivatives", *kNode = "ChainDerivativesBackward";
  static size_t inputs(const Facts& facts) { return facts.at("inputs").toInt(); }
  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved);
};

// The node of a chain. It keeps the cotangents that G was made of, for the derivatives of G.
class ChainNode : public Node<ChainDerivativesRule> {
 public:
  at::Tensor cotangents() {
    const std::lock_guard lock(mutex_);
    return cotangents_;
  }
  void keep_cotangents(at::Tensor made) {
    const std::lock_guard lock(mutex_);
    cotangents_ = std::move(made);
  }
  void release_variables() override {
    Node<ChainDerivativesRule>::release_variables();
    keep_cotangents({});
  }

 private:
  std::mutex mutex_;
  at::Tensor cotangents_;
};

// The node that runs, if it is one of these: compiled autograd calls rules without their nodes.
template <class Made> c10::intrusive_ptr<torch::autograd::Node> running() {
  c10::intrusive_ptr<torch::autograd::Node> node = torch::autograd::get_current_node();
  return dynamic_cast<Made*>(node.get()) ? node : c10::intrusive_ptr<torch::autograd::Node>();
}

// A chain as what differentiates it knows it: what its node saved, and the node.
struct Derivable {
  variable_list of;
  const Facts& facts;  // acts, saves_input, places
  c10::intrusive_ptr<torch::autograd::Node> node;

  ChainNode& chain() const { return static_cast<ChainNode&>(*node); }
  torch::autograd::Edge edge(uint32_t input) const { return {node, input}; }
  at::Tensor kernel(const at::Tensor& gy, const at::Tensor& t, size_t only) const {
    return chain_derivatives(of, facts.at("acts"), gy, t, {}, chain().cotangents(), int64_t(1) << only)[only];
  }
  // `first`, and the chain if its derivatives may be asked for.
  variable_list with(variable_list first, bool all) const {
    if (all) first.insert(first.end(), of.begin(), of.end());
    return first;
  }
  Layers layers() const {
    return {of.data() + kWeights, activations_of(facts.at("acts").toStringRef()), facts.at("saves_input").toInt()};
  }
  template <class Rule> void note(const at::Tensor& made, torch::autograd::edge_list edges, variable_list saved) const {
    set_history<Rule>(
        {made}, std::move(edges), std::move(saved),
        {{"acts", facts.at("acts")}, {"saves_input", facts.at("saves_input")}, {"places", facts.at("places")}});
  }

  at::Tensor slope(const at::Tensor& c, const at::Tensor& t) const;
  at::Tensor along(const at::Tensor& p) const;
};

// Of what is saved from `at` on, by the node that runs, and has one of these edges to that of the chain.
inline Derivable derivable(const Facts& facts, const variable_list& saved, size_t at,
                           const torch::autograd::Node& running, std::initializer_list<int> edges) {
  Derivable chain{{saved.begin() + at, saved.end()}, facts, {}};
  check_places(chain.of, facts.at("places").toIntVector());
  for (const int i : edges) {
    const torch::autograd::Edge& edge = running.next_edge(i);
    if (edge.is_valid()) chain.node = edge.function;
  }
  return chain;
}

struct ChainSlopeRule {
  static constexpr const char *kOp = "chain_slope", *kNode = "ChainSlopeBackward";
  static size_t inputs(const Facts&) { return 4; }  // c, t, G, H

  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    const at::Tensor &p = grads[0], &c = saved[0], &t = saved[1];
    const auto node = running<Node<ChainSlopeRule>>();
    if (!node && (needed[0] || needed[1])) return by_rule<ChainSlopeRule>(facts, needed, grads, saved);
    variable_list found(4);
    if (needed[2] && c.defined()) found[2] = c.mul(p);
    if (needed[3] && t.defined()) found[3] = p.unsqueeze(-1).mul(t.unsqueeze(-2));
    if (!needed[0] && !needed[1]) return found;
    const Derivable chain = derivable(facts, saved, 2, *node, {2, 3});
    if (needed[0]) found[0] = chain.along(p);
    if (needed[1]) found[1] = chain.slope({}, p);
    return found;
  }
};

struct ChainAlongRule {
  static constexpr const char *kOp = "chain_along", *kNode = "ChainAlongBackward";
  static size_t inputs(const Facts&) { return 2; }  // p, G

  static variable_list backward(const Facts& facts, const Needed& needed, const variable_list& grads,
                                const variable_list& saved) {
    const at::Tensor &q = grads[0], &p = saved[0];
    const auto node = running<Node<ChainAlongRule>>();
    if (!node && needed[0]) return by_rule<ChainAlongRule>(facts, needed, grads, saved);
    variable_list found(2);
    if (needed[1]) found[1] = q.mul(p);
    if (needed[0]) found[0] = derivable(facts, saved, 1, *node, {1}).slope(q, {});
    return found;
  }
};

inline at::Tensor Derivable::slope(const at::Tensor& c, const at::Tensor& t) const {
  at::Tensor gx;
  if (!at::GradMode::is_enabled() || t.defined()) {
    gx = kernel(c, t, 1);
  } else {  // what is differentiable is likely differentiated
    static const Operator op("fusegrad::chain_slope");
    const torch::jit::Stack made = op({c, of[kX], weights_of(of), if_any(of[1]), of[0], facts.at("acts")});
    gx = made[0].toTensor();
    if (made[1].toTensor().numel() > 0) chain().keep_cotangents(made[1].toTensor());
  }
  if (!at::GradMode::is_enabled() || (!t.defined() && !depend(layers(), c, of[kX])[0])) return gx;
  torch::autograd::edge_list edges = edges_of({c, t});
  edges.push_back(c.defined() ? edge(kOfG) : torch::autograd::Edge());
  edges.push_back(t.defined() ? edge(kOfH) : torch::autograd::Edge());
  note<ChainSlopeRule>(gx, std::move(edges), with({c, t}, is_differentiable(c, t)));
  return gx;
}

inline at::Tensor Derivable::along(const at::Tensor& p) const {
  const at::Tensor l = kernel({}, p, 0);
  if (!at::GradMode::is_enabled()) return l;
  torch::autograd::edge_list edges = edges_of({p});
  edges.push_back(edge(kOfG));
  note<ChainAlongRule>(l, std::move(edges), with({p}, is_differentiable(p)));
  return l;
}

inline variable_list ChainDerivativesRule::backward(const Facts& facts, const Needed& needed,
                                                    const variable_list& grads, const variable_list& saved) {
  check_places(saved, facts.at("places").toIntVector());
  const at::Tensor &gy = grads[kOfY], &t = grads[kOfG], &f = grads[kOfH];
  const bool again = at::GradMode::is_enabled(), is_first = !t.defined() && !f.defined();
  const bool only_x = needed[0] && std::find(needed.begin() + 1, needed.end(), true) == needed.end();
  const auto node = running<ChainNode>();
  if (node && again && only_x && !f.defined() && (is_first || t.size(-1) <= kMostFeatures)) {
    variable_list found(needed.size());
    found[0] = Derivable{saved, facts, node}.slope(gy, t);
    return found;
  }
  if (again && !is_first) return by_rule<ChainDerivativesRule>(facts, needed, grads, saved);
  int64_t mask = 0;
  for (size_t i = 0; i < needed.size(); i++) mask |= int64_t(needed[i]) << (i + 1);  // after l
  const at::Tensor cotangents = node ? static_cast<ChainNode&>(*node).cotangents() : at::Tensor();
  variable_list found = chain_derivatives(saved, facts.at("acts"), gy, t, f, cotangents, mask);
  found.erase(found.begin());
  if (again) {
    variable_list inputs(saved.begin() + kX - 1, saved.end());
    inputs[0] = gy;
    set_second_history(found, std::move(inputs), needed, facts.at("acts").toStringRef(),
                       facts.at("saves_input").toInt());
  }
  return found;
}

// Makes y of a chain differentiable, of whose node all this is saved.
inline void set_derivatives(const at::Tensor& y, variable_list saved, const std::string& acts, int64_t saves_input) {
  const at::Tensor& x = saved[kX];
  const variable_list inputs(saved.begin() + kX, saved.end());
  const auto node = make_node<ChainDerivativesRule, ChainNode>(edges_of(inputs));
  node->add_input_metadata(y);
  node->add_input_metadata(x);
  c10::DimVector shape(x.sizes()), none(x.dim() + 1, 0);
  shape.push_back(x.size(-1));
  node->add_input_metadata(x.detach().as_strided(shape, none));  // of which the shape is noted
  const std::vector<int64_t> at = places_if_they_stay(saved);
  if (saved[1].defined()) saved[1] = y.detach();  // whose node leads to this one
  keep<ChainDerivativesRule>(
      *node, std::move(saved),
      {{"acts", acts}, {"saves_input", saves_input}, {"places", at}, {"inputs", int64_t(inputs.size())}});
  set_history<ChainValueRule>({y}, torch::autograd::edge_list{{node, kOfY}}, {}, {});
}

}  // namespace fusegrad
