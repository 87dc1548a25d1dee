#include "ring_buffer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "args.h"
#include "error.h"
#include "log_capture.h"
#include "map.h"

namespace libbpf_napi {

Napi::Function RingBuffer::Define(Napi::Env env) {
  return DefineClass(env, "NativeRingBuffer",
                     {
                         InstanceMethod<&RingBuffer::Consume>("consume"),
                         InstanceMethod<&RingBuffer::Arm>("arm"),
                         InstanceMethod<&RingBuffer::Disarm>("disarm"),
                         InstanceMethod<&RingBuffer::Reference>("reference"),
                         InstanceMethod<&RingBuffer::Stats>("stats"),
                         InstanceMethod<&RingBuffer::Close>("close"),
                     });
}

// new NativeRingBuffer(map)
RingBuffer::RingBuffer(const Napi::CallbackInfo& info) : ObjectWrap(info) {
  Napi::Env env = info.Env();
  info.This().As<Napi::Object>().TypeTag(&kTag);
  Map* map = HandleOf<Map>(info[0]);
  if (map == nullptr) {
    ThrowBpf(env, "open", "ring buffer", EINVAL, "not a map");
    return;
  }
  int fd = map->Fd(env, "open a ring buffer on");
  if (fd < 0) return;
  fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  LogCapture capture;
  if (fd_ >= 0) ring_ = ring_buffer__new(fd_, OnRecord, this, nullptr);
  if (ring_ == nullptr) {
    ThrowBpf(env, "open a ring buffer on", map->Subject(), errno, capture.text());
    return;
  }
  watch_ = FdWatch::Start(env, ring_buffer__epoll_fd(ring_), [this] { OnReadable(); });
  context_ = std::make_unique<Napi::AsyncContext>(env, "BpfRingBuffer");
}

int RingBuffer::OnRecord(void* context, void* data, size_t size) {
  auto* self = static_cast<RingBuffer*>(context);
  size_t offset = (self->arena_.size() + 7) & ~size_t{7};
  self->arena_.resize(offset + size);
  memcpy(self->arena_.data() + offset, data, size);
  self->records_.emplace_back(offset, size);
  // A negative answer stops libbpf after this record, which counts as consumed.
  bool full = self->records_.size() >= self->max_records_ || self->arena_.size() >= self->max_bytes_;
  return full ? -ECANCELED : 0;
}

// consume(maxRecords, maxBytes): an array of Uint8Arrays over one buffer of their own, maybe empty.
// The byte limit is passed by at most one record.
Napi::Value RingBuffer::Consume(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (ring_ == nullptr) return ThrowClosed(env, "read", "ring buffer");
  max_records_ = U32(info[0], 1);
  max_bytes_ = U32(info[1], 1);
  arena_.clear();
  records_.clear();
  int error = ring_buffer__consume(ring_);
  if (error < 0 && error != -ECANCELED) return ThrowBpf(env, "read", "ring buffer", error);

  Napi::Array batch = Napi::Array::New(env, records_.size());
  if (records_.empty()) return batch;
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, arena_.size());
  if (env.IsExceptionPending()) return {};
  memcpy(buffer.Data(), arena_.data(), arena_.size());
  for (size_t i = 0; i < records_.size(); i++) {
    auto [offset, size] = records_[i];
    batch.Set(static_cast<uint32_t>(i), Napi::Uint8Array::New(env, size, buffer, offset));
  }
  return batch;
}

// arm(callback): calls back once when there is something to consume.
Napi::Value RingBuffer::Arm(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (ring_ == nullptr) return ThrowClosed(env, "wait for", "ring buffer");
  if (callback_.IsEmpty()) Ref();  // nobody may collect us while libuv holds our address
  callback_ = Napi::Persistent(info[0].As<Napi::Function>());
  watch_->Arm();
  return env.Undefined();
}

void RingBuffer::StandDown() {
  if (callback_.IsEmpty()) return;
  callback_.Reset();
  Unref();
}

void RingBuffer::OnReadable() {
  Napi::Env env = Env();
  Napi::HandleScope scope(env);
  if (callback_.IsEmpty()) return;
  Napi::Function callback = callback_.Value();
  Napi::Object receiver = Value();
  StandDown();
  callback.MakeCallback(receiver, 0, nullptr, *context_);
}

Napi::Value RingBuffer::Disarm(const Napi::CallbackInfo& info) {
  if (watch_ != nullptr) watch_->Disarm();
  StandDown();
  return info.Env().Undefined();
}

Napi::Value RingBuffer::Reference(const Napi::CallbackInfo& info) {
  if (watch_ != nullptr) watch_->Reference(Flag(info[0]));
  return info.Env().Undefined();
}

// stats(): {sizeBytes, pendingBytes, consumedBytes}
Napi::Value RingBuffer::Stats(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (ring_ == nullptr) return ThrowClosed(env, "read", "ring buffer");
  ring* only = ring_buffer__ring(ring_, 0);
  Napi::Object out = Napi::Object::New(env);
  out.Set("sizeBytes", static_cast<double>(ring__size(only)));
  out.Set("pendingBytes", static_cast<double>(ring__avail_data_size(only)));
  out.Set("consumedBytes", static_cast<double>(ring__consumer_pos(only)));
  return out;
}

void RingBuffer::Release() {
  // First the watch, then the epoll descriptor that it watches.
  if (watch_ != nullptr) std::exchange(watch_, nullptr)->Close();
  if (ring_ != nullptr) ring_buffer__free(std::exchange(ring_, nullptr));
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

Napi::Value RingBuffer::Close(const Napi::CallbackInfo& info) {
  Release();
  StandDown();
  return info.Env().Undefined();
}

}  // namespace libbpf_napi
