#include "registry.h"

#include <dlfcn.h>

#include <atomic>
#include <stdexcept>

#include "capability.h"

namespace fusegrad {
namespace {

// What came at run time, the newest first. It is read on every call, by any thread, and never freed: a list that only
// grows at its head needs no lock.
struct Entry {
  std::string name;
  bool saves_input;
  const OwnActivation* kernels;  // nullptr if there are none
  const Entry* next;
};
std::atomic<const Entry*> newest{nullptr};

void add(std::string name, bool saves_input, const OwnActivation* kernels) {
  Entry* entry = new Entry{std::move(name), saves_input, kernels, newest.load()};
  while (!newest.compare_exchange_weak(entry->next, entry)) {
  }
}

const Activation* of_kernels(const std::string& name) {
  const Kernels& all = kernels();
  for (int i = 0; i < all.count; i++)
    if (name == all.activations[i].name) return &all.activations[i];
  return nullptr;
}

}  // namespace

const Activation* activation(const std::string& name) {
  if (const Activation* known = of_kernels(name)) return known;
  for (const Entry* e = newest.load(std::memory_order_acquire); e; e = e->next)
    if (e->kernels && name == e->name && kernels().isa == std::string(e->kernels->isa)) return &e->kernels->activation;
  return nullptr;
}

bool saves_input(const std::string& name) {
  if (const Activation* known = of_kernels(name)) return known->saves_input;
  for (const Entry* e = newest.load(std::memory_order_acquire); e; e = e->next)
    if (name == e->name) return e->saves_input;
  return true;
}

void know_activation(const std::string& name, bool saves_input) { add(name, saves_input, nullptr); }

void load_activation(const std::string& path) {
  void* object = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  const char* error = object ? nullptr : dlerror();
  if (object == nullptr) throw std::invalid_argument(error ? error : path + " cannot be loaded");
  const auto* own = static_cast<const OwnActivation*>(dlsym(object, "fusegrad_own_activation"));
  if (own == nullptr || own->interface != kInterface) {
    dlclose(object);
    throw std::invalid_argument(path + (own ? " was compiled for another fusegrad" : " has no activation"));
  }
  add(own->activation.name, own->activation.saves_input, own);
}

}  // namespace fusegrad
