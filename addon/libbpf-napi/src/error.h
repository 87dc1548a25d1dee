#pragma once

#include <napi.h>

#include <string>

namespace libbpf_napi {

// Per-environment state: the main thread and every worker have their own.
struct EnvData {
  Napi::FunctionReference make_error;  // TypeScript's factory of BpfError
  Napi::FunctionReference object_class;
  Napi::FunctionReference map_class;
  Napi::FunctionReference program_class;
  Napi::FunctionReference link_class;
  Napi::FunctionReference btf_class;

  static EnvData& Of(Napi::Env env) { return *env.GetInstanceData<EnvData>(); }
};

// Throws (in JavaScript) what TypeScript's error factory makes of it, and returns an empty value so
// that callers can `return ThrowBpf(...)`.
//   operation  what was tried, as a verb: "load", "lookup"
//   subject    what it was tried on: `map "flows"`
//   err        errno, positive or negative; libbpf's own numbers (4000 and up) are welcome
//   log        what libbpf and the kernel said about it, may be empty
Napi::Value ThrowBpf(Napi::Env env, const char* operation, const std::string& subject, int err,
                     const std::string& log = {});

// The error of a handle that was closed.
Napi::Value ThrowClosed(Napi::Env env, const char* operation, const std::string& subject);

// setErrorFactory(fn): called once per environment by the TypeScript side.
Napi::Value SetErrorFactory(const Napi::CallbackInfo& info);

}  // namespace libbpf_napi
