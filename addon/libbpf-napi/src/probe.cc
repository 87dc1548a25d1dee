#include "probe.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "args.h"
#include "kernel_abi.h"
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

namespace {

// What a type insists on before its program is looked at. Types that need a target of their own
// (tracing, lsm, ext, struct_ops) are not in reach of a program of two instructions.
bool PrepareFor(bpf_prog_type type, bpf_prog_load_opts* opts) {
  switch (type) {
    case BPF_PROG_TYPE_TRACING:
    case BPF_PROG_TYPE_LSM:
    case BPF_PROG_TYPE_EXT:
    case BPF_PROG_TYPE_STRUCT_OPS:
      return false;
    case BPF_PROG_TYPE_CGROUP_SOCK_ADDR:
      opts->expected_attach_type = BPF_CGROUP_INET4_CONNECT;
      return true;
    case BPF_PROG_TYPE_CGROUP_SOCKOPT:
      opts->expected_attach_type = BPF_CGROUP_GETSOCKOPT;
      return true;
    case BPF_PROG_TYPE_SK_LOOKUP:
      opts->expected_attach_type = BPF_SK_LOOKUP;
      return true;
    case BPF_PROG_TYPE_SYSCALL:
      opts->prog_flags = BPF_F_SLEEPABLE;
      return true;
    default:
      if (type == static_cast<bpf_prog_type>(abi::kProgramTypeNetfilter)) {
        opts->expected_attach_type = static_cast<bpf_attach_type>(abi::kAttachNetfilter);
      }
      return true;
  }
}

}  // namespace

// Not libbpf_probe_bpf_helper(): it knows only the wording of older kernels, and takes every refusal
// by a newer one ("program of this type cannot use helper ...") for a yes.
Napi::Value ProbeHelper(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto type = static_cast<bpf_prog_type>(U32(info[0]));
  const bpf_insn call_and_exit[] = {
      {BPF_JMP | BPF_CALL, 0, 0, 0, static_cast<int32_t>(U32(info[1]))},
      {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  char log[4096] = "";
  LIBBPF_OPTS(bpf_prog_load_opts, opts);
  opts.log_buf = log;
  opts.log_size = sizeof log;
  opts.log_level = 1;
  if (!PrepareFor(type, &opts)) return Napi::Number::New(env, -EOPNOTSUPP);
  LogCapture quiet;
  int fd = bpf_prog_load(type, nullptr, "GPL", call_and_exit, 2, &opts);
  if (fd >= 0) {
    close(fd);
    return Napi::Number::New(env, 1);
  }
  for (const char* refusal : {"invalid func ", "unknown func ", "cannot use helper "}) {
    if (strstr(log, refusal) != nullptr) return Napi::Number::New(env, 0);
  }
  // Another complaint is about the arguments: the helper as such is known. None at all: the program
  // was not looked at.
  return Napi::Number::New(env, log[0] != '\0' ? 1 : fd);
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
