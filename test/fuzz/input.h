// The fuzzer's bytes as a source of choices; zeros when they are used up.
#pragma once

#include <cstddef>
#include <cstdint>

class Input {
 public:
  Input(const uint8_t* bytes, size_t count) : at_(bytes), end_(bytes + count) {}

  bool empty() const { return at_ == end_; }
  uint8_t Byte() { return at_ == end_ ? uint8_t{0} : *at_++; }
  uint16_t Word() { return static_cast<uint16_t>(Byte() << 8 | Byte()); }
  uint32_t Below(uint32_t limit) { return limit ? (limit > 256 ? Word() : Byte()) % limit : 0; }
  size_t left() const { return static_cast<size_t>(end_ - at_); }
  const uint8_t* rest() const { return at_; }

 private:
  const uint8_t* at_;
  const uint8_t* const end_;
};
