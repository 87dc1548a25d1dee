#include "btf.h"

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "args.h"
#include "error.h"
#include "libbpf_version.h"
#include "log_capture.h"

namespace libbpf_napi {

Napi::Function Btf::Define(Napi::Env env) {
  return DefineClass(env, "NativeBtf",
                     {
                         InstanceMethod<&Btf::Bytes>("bytes"),
                         InstanceMethod<&Btf::DumpC>("dumpC"),
                         InstanceMethod<&Btf::Close>("close"),
                     });
}

// new NativeBtf(path | bytes, basePath?): a raw BTF file, an ELF file with a .BTF section, or raw
// BTF itself. `basePath` is what a kernel module's split BTF builds on.
Btf::Btf(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  Napi::Env env = info.Env();
  info.This().As<Napi::Object>().TypeTag(&kTag);
  LogCapture capture;
  if (info[1].IsString()) {
    std::string base = TextOf(info[1]);
    base_ = btf__parse(base.c_str(), nullptr);
    if (base_ == nullptr) {
      ThrowBpf(env, "load", "BTF of " + base, errno, capture.text());
      return;
    }
  }
  if (info[0].IsString()) {
    std::string path = TextOf(info[0]);
    subject_ = "BTF of " + path;
    btf_ = btf__parse_split(path.c_str(), base_);
  } else {
    libbpf_napi::Bytes bytes = BytesOf(info[0]);
    subject_ = "BTF of " + std::to_string(bytes.size) + " bytes";
#if LIBBPF_NAPI_HAS(1, 4)
    btf_ = btf__new_split(bytes.data, bytes.size, base_);
#else
    if (base_ != nullptr) {
      ThrowBpf(env, "load", subject_, EOPNOTSUPP, "BTF in memory with a base needs libbpf 1.4");
      return;
    }
    btf_ = btf__new(bytes.data, bytes.size);
#endif
  }
  if (btf_ == nullptr) {
    int error = errno;
    ThrowBpf(env, "load", subject_, error, error == ENODATA ? "the file has no .BTF section (compile with -g)" : capture.text());
  }
}

void Btf::Free() {
  btf__free(btf_);
  btf__free(base_);
  btf_ = base_ = nullptr;
}

bool Btf::Open(Napi::Env env, const char* operation) {
  if (btf_ == nullptr) ThrowClosed(env, operation, subject_);
  return btf_ != nullptr;
}

Napi::Value Btf::Bytes(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Open(env, "read")) return {};
  uint32_t size = 0;
  const void* raw = btf__raw_data(btf_, &size);
  if (raw == nullptr) return ThrowBpf(env, "read", subject_, ENOMEM);
  Napi::Uint8Array out = Napi::Uint8Array::New(env, size);
  if (env.IsExceptionPending()) return {};
  memcpy(out.Data(), raw, size);
  return out;
}

// dumpC(): every type as C declarations, in an order that compiles.
Napi::Value Btf::DumpC(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!Open(env, "write C from")) return {};
  std::string text;
  auto print = [](void* context, const char* format, va_list args) {
    auto& out = *static_cast<std::string*>(context);
    char chunk[512];
    va_list again;
    va_copy(again, args);
    int need = vsnprintf(chunk, sizeof chunk, format, args);
    if (need > 0 && static_cast<size_t>(need) < sizeof chunk) {
      out.append(chunk, need);
    } else if (need > 0) {
      size_t start = out.size();
      out.resize(start + need + 1);
      vsnprintf(&out[start], need + 1, format, again);
      out.resize(start + need);
    }
    va_end(again);
  };
  LogCapture capture;
  btf_dump* dump = btf_dump__new(btf_, print, &text, nullptr);
  if (dump == nullptr) return ThrowBpf(env, "write C from", subject_, errno, capture.text());
  int error = 0;
  uint32_t first = base_ != nullptr ? btf__type_cnt(base_) : 1;
  uint32_t end = btf__type_cnt(btf_);
  for (uint32_t id = first; id < end && error == 0; id++) error = btf_dump__dump_type(dump, id);
  btf_dump__free(dump);
  if (error != 0) return ThrowBpf(env, "write C from", subject_, error, capture.text());
  return Napi::String::New(env, text);
}

Napi::Value Btf::Close(const Napi::CallbackInfo& info) {
  Free();
  return info.Env().Undefined();
}

}  // namespace libbpf_napi
