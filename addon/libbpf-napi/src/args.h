// Reading arguments that the TypeScript layer has already validated. What is read here is still
// checked where a mistake could touch memory.
#pragma once

#include <napi.h>

#include <optional>
#include <string>

namespace libbpf_napi {

struct Bytes {
  uint8_t* data = nullptr;
  size_t size = 0;
};

// The bytes of a Uint8Array; nothing for any other value.
inline Bytes BytesOf(const Napi::Value& value) {
  napi_typedarray_type type;
  size_t size = 0;
  void* data = nullptr;
  // One call in place of one per property: this is on the path of every map operation.
  napi_status status =
      napi_get_typedarray_info(value.Env(), value, &type, &size, &data, nullptr, nullptr);
  if (status != napi_ok || type != napi_uint8_array) return {};
  return {static_cast<uint8_t*>(data), size};
}

inline std::string TextOf(const Napi::Value& value) {
  return value.IsString() ? value.As<Napi::String>().Utf8Value() : std::string();
}

inline std::optional<std::string> OptionalText(const Napi::Value& value) {
  if (!value.IsString()) return std::nullopt;
  return value.As<Napi::String>().Utf8Value();
}

inline const char* OrNull(const std::optional<std::string>& text) {
  return text ? text->c_str() : nullptr;
}

inline uint32_t U32(const Napi::Value& value, uint32_t fallback = 0) {
  return value.IsNumber() ? value.As<Napi::Number>().Uint32Value() : fallback;
}

inline int32_t I32(const Napi::Value& value, int32_t fallback = 0) {
  return value.IsNumber() ? value.As<Napi::Number>().Int32Value() : fallback;
}

inline uint64_t U64(const Napi::Value& value) {
  if (value.IsNumber()) return static_cast<uint64_t>(value.As<Napi::Number>().Int64Value());
  if (!value.IsBigInt()) return 0;
  bool lossless = true;
  return value.As<Napi::BigInt>().Uint64Value(&lossless);
}

inline bool Flag(const Napi::Value& value) {
  return value.IsBoolean() && value.As<Napi::Boolean>().Value();
}

// The C++ object behind a wrapped handle, or null when the value is not one. Type tags make a
// handle of another class (or of another add-on) recognisable instead of fatal.
template <class Wrapped>
Wrapped* HandleOf(const Napi::Value& value) {
  if (!value.IsObject()) return nullptr;
  Napi::Object object = value.As<Napi::Object>();
  if (!object.CheckTypeTag(&Wrapped::kTag)) return nullptr;
  return Wrapped::Unwrap(object);
}

inline std::string Quoted(const char* kind, const char* name) {
  return std::string(kind) + " \"" + (name != nullptr ? name : "") + "\"";
}

}  // namespace libbpf_napi
