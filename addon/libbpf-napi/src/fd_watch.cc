#include "fd_watch.h"

#include "error.h"

namespace libbpf_napi {

FdWatch* FdWatch::Start(Napi::Env env, int fd, std::function<void()> on_readable) {
  uv_loop_t* loop = nullptr;
  napi_get_uv_event_loop(env, &loop);
  auto* watch = new FdWatch(std::move(on_readable));
  int error = uv_poll_init(loop, &watch->poll_, fd);
  if (error != 0) {
    delete watch;
    ThrowBpf(env, "watch", "descriptor " + std::to_string(fd), error);
    return nullptr;
  }
  watch->poll_.data = watch;
  napi_add_async_cleanup_hook(env, OnEnvCleanup, watch, &watch->hook_);
  return watch;
}

void FdWatch::Arm() {
  if (!closing_) uv_poll_start(&poll_, UV_READABLE, OnPoll);
}

void FdWatch::Disarm() {
  if (!closing_) uv_poll_stop(&poll_);
}

void FdWatch::Reference(bool on) {
  if (closing_) return;
  auto* handle = reinterpret_cast<uv_handle_t*>(&poll_);
  if (on) {
    uv_ref(handle);
  } else {
    uv_unref(handle);
  }
}

void FdWatch::OnPoll(uv_poll_t* poll, int, int) {
  auto* watch = static_cast<FdWatch*>(poll->data);
  // One shot, also on an error: whoever reads the descriptor next will meet it.
  uv_poll_stop(poll);
  watch->on_readable_();
}

void FdWatch::CloseHandle() {
  if (closing_) return;
  closing_ = true;
  uv_close(reinterpret_cast<uv_handle_t*>(&poll_), [](uv_handle_t* handle) {
    auto* watch = static_cast<FdWatch*>(handle->data);
    napi_remove_async_cleanup_hook(watch->hook_);
    watch->freed_ = true;
    if (watch->released_) delete watch;
  });
}

void FdWatch::Close() {
  released_ = true;
  if (freed_) {
    delete this;
    return;
  }
  CloseHandle();
}

void FdWatch::OnEnvCleanup(napi_async_cleanup_hook_handle, void* data) {
  static_cast<FdWatch*>(data)->CloseHandle();
}

}  // namespace libbpf_napi
