#pragma once

#include <bpf/btf.h>
#include <napi.h>

#include <string>

namespace libbpf_napi {

// Type information of a kernel or an object file. TypeScript walks the raw bytes itself; what needs
// libbpf is finding them and writing C.
class Btf : public Napi::ObjectWrap<Btf> {
 public:
  static constexpr napi_type_tag kTag = {0x6c6962627066206f, 0x0000000000000005};
  static Napi::Function Define(Napi::Env env);
  explicit Btf(const Napi::CallbackInfo& info);
  ~Btf() override { Free(); }

 private:
  Napi::Value Bytes(const Napi::CallbackInfo& info);
  Napi::Value DumpC(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);
  bool Open(Napi::Env env, const char* operation);
  void Free();

  btf* btf_ = nullptr;
  btf* base_ = nullptr;
  std::string subject_;
};

}  // namespace libbpf_napi
