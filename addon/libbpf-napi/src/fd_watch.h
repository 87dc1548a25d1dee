#pragma once

#include <napi.h>
#include <uv.h>

#include <functional>

namespace libbpf_napi {

// Waits, once per Arm(), for a descriptor to become readable, on the loop of its environment:
// no thread, and nothing runs while nobody waits.
//
// The handle inside belongs to libuv until its close callback has run. That also holds when the
// environment ends first (a worker is terminated), hence the cleanup hook.
class FdWatch {
 public:
  // Null, with a JavaScript exception pending, when libuv refuses the descriptor.
  static FdWatch* Start(Napi::Env env, int fd, std::function<void()> on_readable);

  void Arm();
  void Disarm();
  // An unreferenced watch does not keep the process running.
  void Reference(bool on);
  // Never touches the descriptor again; frees itself. `watch` must not be used after this.
  void Close();

 private:
  FdWatch(std::function<void()> on_readable) : on_readable_(std::move(on_readable)) {}
  static void OnPoll(uv_poll_t* poll, int status, int events);
  static void OnEnvCleanup(napi_async_cleanup_hook_handle hook, void* data);

  uv_poll_t poll_;
  napi_async_cleanup_hook_handle hook_ = nullptr;
  std::function<void()> on_readable_;
  bool closing_ = false;
  bool released_ = false;  // the owner has called Close()
  bool freed_ = false;     // libuv has let go

  void CloseHandle();
};

}  // namespace libbpf_napi
