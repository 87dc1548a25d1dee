#include "user_ring_buffer.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include "args.h"
#include "error.h"
#include "log_capture.h"
#include "map.h"

namespace libbpf_napi {

Napi::Function UserRingBuffer::Define(Napi::Env env) {
  return DefineClass(env, "NativeUserRingBuffer",
                     {
                         InstanceMethod<&UserRingBuffer::Submit>("submit"),
                         InstanceMethod<&UserRingBuffer::Close>("close"),
                     });
}

// new NativeUserRingBuffer(map)
UserRingBuffer::UserRingBuffer(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  Napi::Env env = info.Env();
  info.This().As<Napi::Object>().TypeTag(&kTag);
  Map* map = HandleOf<Map>(info[0]);
  if (map == nullptr) {
    ThrowBpf(env, "open", "user ring buffer", EINVAL, "not a map");
    return;
  }
  int fd = map->Fd(env, "open a user ring buffer on");
  if (fd < 0) return;
  LogCapture capture;
  ring_ = user_ring_buffer__new(fd, nullptr);
  if (ring_ == nullptr) {
    ThrowBpf(env, "open a user ring buffer on", map->Subject(), errno, capture.text());
  }
}

// submit(bytes): false when there is no room.
Napi::Value UserRingBuffer::Submit(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (ring_ == nullptr) return ThrowClosed(env, "write to", "user ring buffer");
  Bytes bytes = BytesOf(info[0]);
  void* room = user_ring_buffer__reserve(ring_, bytes.size);
  if (room == nullptr) {
    if (errno == ENOSPC) return Napi::Boolean::New(env, false);
    return ThrowBpf(env, "write to", "user ring buffer", errno,
                    errno == E2BIG ? "the record is larger than the ring" : "");
  }
  memcpy(room, bytes.data, bytes.size);
  user_ring_buffer__submit(ring_, room);
  return Napi::Boolean::New(env, true);
}

Napi::Value UserRingBuffer::Close(const Napi::CallbackInfo& info) {
  user_ring_buffer__free(std::exchange(ring_, nullptr));
  return info.Env().Undefined();
}

}  // namespace libbpf_napi
