#pragma once

#include <bpf/libbpf.h>
#include <napi.h>

#include <memory>
#include <vector>

#include "fd_watch.h"

namespace libbpf_napi {

// The consumer of one BPF_MAP_TYPE_RINGBUF. It only moves when asked: consume() takes what is
// there, up to a limit; arm() tells once when there is something.
class RingBuffer : public Napi::ObjectWrap<RingBuffer> {
 public:
  static constexpr napi_type_tag kTag = {0x6c6962627066206f, 0x0000000000000006};
  static Napi::Function Define(Napi::Env env);
  explicit RingBuffer(const Napi::CallbackInfo& info);
  ~RingBuffer() override { Release(); }

 private:
  Napi::Value Consume(const Napi::CallbackInfo& info);
  Napi::Value Arm(const Napi::CallbackInfo& info);
  Napi::Value Disarm(const Napi::CallbackInfo& info);
  Napi::Value Reference(const Napi::CallbackInfo& info);
  Napi::Value Stats(const Napi::CallbackInfo& info);
  Napi::Value Close(const Napi::CallbackInfo& info);

  static int OnRecord(void* context, void* data, size_t size);
  void OnReadable();
  void StandDown();
  void Release();

  int fd_ = -1;  // our own of the map: its object may be closed before us
  ring_buffer* ring_ = nullptr;
  FdWatch* watch_ = nullptr;
  Napi::FunctionReference callback_;  // set while armed
  std::unique_ptr<Napi::AsyncContext> context_;

  // The batch being collected: records one after the other, each aligned to 8 bytes.
  std::vector<uint8_t> arena_;
  std::vector<std::pair<size_t, size_t>> records_;  // offset, size
  size_t max_records_ = 0;
  size_t max_bytes_ = 0;
};

}  // namespace libbpf_napi
