// The node of an op: what it keeps, and how it gets from the gradients of the results to those of the arguments.
//
// In plain eager mode rules are written here, of ops that have nodes themselves, so that every order follows; a rule is
// a struct with kOp, the name of the op, kNode, that of the node, `inputs`, how many tensors the op takes, and
// `backward`. In all other modes the rule of the op in Python serves (python/fusegrad/ops), of what the node keeps.
#pragma once

#include "autocast.h"

namespace fusegrad {

inline PyObject* rule_in_python = nullptr;  // by_rule of python/fusegrad/ops/op.py

using Facts = ska::flat_hash_map<std::string, at::IValue>;  // what a node keeps besides tensors, by the rule's names
using Fact = std::pair<const char*, at::IValue>;
using Needed = c10::SmallVector<bool, 8>;

inline PyObject* to_python(const at::IValue& fact) {
  if (fact.isString()) return PyUnicode_FromStringAndSize(fact.toStringRef().data(), fact.toStringRef().size());
  if (fact.isDouble()) return PyFloat_FromDouble(fact.toDouble());
  if (fact.isBool()) return to_bool(fact.toBool());
  if (fact.isBoolList()) return to_tuple(fact.toBoolList().vec(), to_bool).release();
  if (fact.isIntList()) return to_tuple(fact.toIntVector(), PyLong_FromLongLong).release();
  return PyLong_FromLongLong(fact.toInt());
}

template <class Rule> variable_list by_rule(const Facts& facts, const Needed& needed, const variable_list& grads,
                                            const variable_list& saved) {
  const pybind11::gil_scoped_acquire gil;
  const auto of_tensor = [](const at::Tensor& t) { return to_python(t); };
  THPObjectPtr name(PyUnicode_FromString(Rule::kOp)), named(PyDict_New()), needs = to_tuple(needed, to_bool);
  for (const auto& [key, fact] : facts) {
    THPObjectPtr value(to_python(fact));
    PyDict_SetItemString(named.get(), key.c_str(), value.get());
  }
  THPObjectPtr given = to_tuple(grads, of_tensor), kept = to_tuple(saved, of_tensor);
  const auto call = {name.get(), named.get(), needs.get(), given.get(), kept.get()};
  return to_tensors(call_python(rule_in_python, call).get());
}

// Whether compiled autograd, where the rule is Python's, sees into it, or calls it as it is.
template <class Rule> inline constexpr bool kTraceable = true;

// Whether the rule serves in all modes.
template <class Rule> inline constexpr bool kInAllModes = false;

template <class Rule> struct Function : torch::autograd::Function<Function<Rule>> {
  static constexpr bool is_traceable = kTraceable<Rule>;

  static variable_list backward(torch::autograd::AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    Needed needed(Rule::inputs(ctx->saved_data));
    bool given = false, plain = is_eager();
    for (const variable_list* list : std::initializer_list<const variable_list*>{&grads, &saved}) {
      for (const at::Tensor& t : *list) {
        given |= list == &grads && t.defined();
        plain = plain && (!t.defined() || is_plain(t));
      }
    }
    if (!given) return variable_list(needed.size());
    for (size_t i = 0; i < needed.size(); i++) needed[i] = ctx->needs_input_grad(i);
    if (plain) {  // of one dtype, as the engine gives each node gradients of its results' dtypes
      const WithoutAutocast off;
      return Rule::backward(ctx->saved_data, needed, grads, saved);
    }
    if (kInAllModes<Rule>) return Rule::backward(ctx->saved_data, needed, grads, saved);
    return by_rule<Rule>(ctx->saved_data, needed, grads, saved);
  }
};

template <class Rule> struct Node : torch::autograd::CppNode<Function<Rule>> {
  std::string name() const override { return Rule::kNode; }
};

template <class... Tensors> bool is_differentiable(const Tensors&... inputs) {
  return at::GradMode::is_enabled() && ((inputs.defined() && inputs.requires_grad()) || ...);
}

// Of each argument of an op: that which is absent has one too, which leads nowhere.
inline torch::autograd::edge_list edges_of(const variable_list& inputs) {
  torch::autograd::edge_list edges;
  edges.reserve(inputs.size());
  for (const at::Tensor& t : inputs) {
    edges.push_back(t.defined() ? torch::autograd::impl::gradient_edge(t) : torch::autograd::Edge());
  }
  return edges;
}

template <class Rule, class Made = Node<Rule>> c10::intrusive_ptr<Made> make_node(torch::autograd::edge_list edges) {
  auto node = c10::make_intrusive<Made>();
  node->is_variable_input_.assign(edges.size(), true);
  node->set_ctx_grad_fn(node);
  node->set_next_edges(std::move(edges));
  return node;
}

// Lets a node keep what its rule needs, once it is the history of what it is to be that of.
template <class Rule> void keep(Node<Rule>& node, variable_list saved, std::initializer_list<Fact> facts) {
  for (const auto& [name, fact] : facts) node.ctx_.saved_data.emplace(name, fact);
  node.ctx_.set_materialize_grads(false);
  node.ctx_.save_for_backward(std::move(saved));
  node.save_variables_to_ctx();
}

// Lets a node of this rule be the history of what an op returned: undefined in the place of what has no derivative. It
// has an edge for each argument, which leads nowhere where that is absent.
template <class Rule> void set_history(const variable_list& outputs, torch::autograd::edge_list edges,
                                       variable_list saved, std::initializer_list<Fact> facts) {
  const auto node = make_node<Rule>(std::move(edges));
  torch::autograd::set_history(outputs, node);
  keep(*node, std::move(saved), facts);
}
template <class Rule> void set_history(const variable_list& outputs, const variable_list& inputs, variable_list saved,
                                       std::initializer_list<Fact> facts) {
  set_history<Rule>(outputs, edges_of(inputs), std::move(saved), facts);
}

}  // namespace fusegrad
