#pragma once

#include <bpf/libbpf.h>
#include <napi.h>

namespace libbpf_napi {

// The producer of one BPF_MAP_TYPE_USER_RINGBUF, which a program drains.
class UserRingBuffer : public Napi::ObjectWrap<UserRingBuffer> {
 public:
  static constexpr napi_type_tag kTag = {0x6c6962627066206f, 0x0000000000000007};
  static Napi::Function Define(Napi::Env env);
  explicit UserRingBuffer(const Napi::CallbackInfo& info);
  ~UserRingBuffer() override { user_ring_buffer__free(ring_); }

 private:
  Napi::Value Submit(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  user_ring_buffer* ring_ = nullptr;
};

}  // namespace libbpf_napi
