/*!
 * \file npu/null_session.cc
 * \brief Sleeping, copying and failing.
 */
#include "null_session.h"

#include <array>
#include <charconv>
#include <cstring>
#include <string>
#include <thread>

#include "../check.h"

namespace hetero_tvm::runtime::npu {
namespace {

char* Start(const DLTensor& tensor) { return static_cast<char*>(tensor.data) + tensor.byte_offset; }

int64_t Now() { return std::chrono::nanoseconds(Clock::now().time_since_epoch()).count(); }

}  // namespace

NullRegionSession::NullRegionSession(const Region& region) : RegionSession(region) {
  const std::string where = "NPU region " + region.symbol;
  const auto latency = region.options.find("latency_us");
  if (latency != region.options.end()) {
    const std::string& text = latency->second;
    int64_t count = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), count);
    HETERO_CHECK(parsed.ec == std::errc() && parsed.ptr == text.data() + text.size(), ValueError)
        << where << ": option latency_us is '" << text << "', not a number";
    latency_ = std::chrono::microseconds(count);
  }
  fails_ = region.options.count("fail") != 0;
  stamps_ = region.options.count("stamp") != 0;
  HETERO_CHECK(!stamps_ || (!region.outputs.empty() && region.outputs[0].bytes >= 16), ValueError)
      << where << ": option stamp needs an output of 16 bytes";
  has_gate_ = region.options.count("gate") != 0;
  bool pairs = region.inputs.size() == region.outputs.size();
  for (size_t i = 0; pairs && i < region.inputs.size(); ++i) {
    pairs = region.inputs[i].bytes == region.outputs[i].bytes;
  }
  HETERO_CHECK(!has_gate_ || (!region.inputs.empty() && region.inputs[0].bytes >= 4), ValueError)
      << where << ": option gate needs an input of four bytes";
  HETERO_CHECK(pairs, ValueError) << where
                                  << ": provider null copies inputs to outputs of the same sizes";
}

void NullRegionSession::Run(const std::vector<const DLTensor*>& tensors) {
  std::array<int64_t, 2> stamps = {Now(), 0};
  std::this_thread::sleep_for(latency_);
  if (has_gate_) {
    const auto* gate = reinterpret_cast<const volatile int32_t*>(Start(*tensors[0]));
    while (*gate == 0) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  HETERO_CHECK(!fails_, DeviceFailure) << "NPU region " << region_.symbol << ": failed as asked";
  const size_t inputs = region_.inputs.size();
  for (size_t i = 0; i < inputs; ++i) {
    std::memmove(Start(*tensors[inputs + i]), Start(*tensors[i]), region_.inputs[i].bytes);
  }
  if (stamps_) {
    stamps[1] = Now();
    std::memcpy(Start(*tensors[inputs]), stamps.data(), sizeof(stamps));
  }
}

}  // namespace hetero_tvm::runtime::npu
