#include "probe.h"

#include <bpf/libbpf.h>

#include "args.h"
#include "log_capture.h"

namespace libbpf_napi {

Napi::Value ProbeProgramType(const Napi::CallbackInfo& info) {
  LogCapture quiet;
  int answer = libbpf_probe_bpf_prog_type(static_cast<bpf_prog_type>(U32(info[0])), nullptr);
  return Napi::Number::New(info.Env(), answer);
}

Napi::Value ProbeMapType(const Napi::CallbackInfo& info) {
  LogCapture quiet;
  int answer = libbpf_probe_bpf_map_type(static_cast<bpf_map_type>(U32(info[0])), nullptr);
  return Napi::Number::New(info.Env(), answer);
}

Napi::Value ProbeHelper(const Napi::CallbackInfo& info) {
  LogCapture quiet;
  int answer = libbpf_probe_bpf_helper(static_cast<bpf_prog_type>(U32(info[0])),
                                       static_cast<bpf_func_id>(U32(info[1])), nullptr);
  return Napi::Number::New(info.Env(), answer);
}

namespace {

#define LIBBPF_NAPI_HELPER_NAME(name) "bpf_" #name
const char* const kHelpers[] = {__BPF_FUNC_MAPPER(LIBBPF_NAPI_HELPER_NAME)};
#undef LIBBPF_NAPI_HELPER_NAME

template <class Type>
Napi::Array NamesOf(Napi::Env env, const char* (*name_of)(Type)) {
  Napi::Array names = Napi::Array::New(env);
  for (uint32_t i = 0;; i++) {
    const char* name = name_of(static_cast<Type>(i));
    if (name == nullptr) return names;
    names.Set(i, name);
  }
}

}  // namespace

Napi::Value Names(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Napi::Object out = Napi::Object::New(env);
  out.Set("mapTypes", NamesOf(env, libbpf_bpf_map_type_str));
  out.Set("programTypes", NamesOf(env, libbpf_bpf_prog_type_str));
  Napi::Array helpers = Napi::Array::New(env);
  uint32_t count = 0;
  for (const char* name : kHelpers) helpers.Set(count++, name);
  out.Set("helpers", helpers);
  return out;
}

}  // namespace libbpf_napi
