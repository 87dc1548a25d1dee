#include "error.h"

#include <cerrno>
#include <cstdlib>

namespace libbpf_napi {

Napi::Value ThrowBpf(Napi::Env env, const char* operation, const std::string& subject, int err,
                     const std::string& log) {
  // A failed call below (out of memory, terminating worker) leaves its own exception pending, and
  // that one must not be replaced.
  if (env.IsExceptionPending()) return {};
  err = std::abs(err);
  Napi::Value error = EnvData::Of(env).make_error.Call({
      Napi::String::New(env, operation),
      Napi::String::New(env, subject),
      Napi::Number::New(env, err),
      Napi::String::New(env, log),
  });
  if (!env.IsExceptionPending()) napi_throw(env, error);
  return {};
}

Napi::Value ThrowClosed(Napi::Env env, const char* operation, const std::string& subject) {
  return ThrowBpf(env, operation, subject, EBADF, "the handle is closed");
}

Napi::Value SetErrorFactory(const Napi::CallbackInfo& info) {
  EnvData::Of(info.Env()).make_error = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

}  // namespace libbpf_napi
