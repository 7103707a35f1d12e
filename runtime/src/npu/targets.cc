/*!
 * \file npu/targets.cc
 * \brief Reading of a module's targets, and the choice among them.
 */
#include "targets.h"

#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/json.h>

#include <algorithm>
#include <charconv>
#include <fstream>

#include "../check.h"
#include "../untrusted.h"

namespace hetero_tvm::runtime::npu {
namespace {

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

constexpr const char* kSocFile = "/sys/devices/soc0/soc_id";  // Qualcomm kernels tell the SoC here

template <typename T>
T Member(const json::Object& object, const char* key) {
  const auto found = object.find(ffi::String(key));
  std::optional<T> value;
  if (found != object.end()) value = (*found).second.template try_cast<T>();
  HETERO_CHECK(value.has_value(), ValueError)
      << "NPU module: a target has no '" << key << "', or of the wrong type";
  return *std::move(value);
}

NpuTarget ParseTarget(const json::Value& value) {
  const auto object = value.try_cast<json::Object>();
  HETERO_CHECK(object.has_value(), ValueError) << "NPU module: a target is not an object";
  NpuTarget target;
  target.name = std::string(Member<ffi::String>(*object, "name"));
  target.soc = std::string(Member<ffi::String>(*object, "soc"));
  target.htp_arch = Member<int64_t>(*object, "htp_arch");
  for (const json::Value& id : Member<json::Array>(*object, "soc_ids")) {
    const auto number = id.try_cast<int64_t>();
    HETERO_CHECK(number.has_value(), ValueError) << "NPU module: a SoC's number is none";
    target.soc_ids.push_back(*number);
  }
  for (const auto& [key, option] : Member<json::Object>(*object, "options")) {
    const auto name = key.try_cast<ffi::String>();
    const auto text = option.try_cast<ffi::String>();
    HETERO_CHECK(name.has_value() && text.has_value(), ValueError)
        << "NPU module: an option of target " << target.name << " is not a string";
    target.options[std::string(*name)] = std::string(*text);
  }
  return target;
}

std::string Listing(const std::vector<NpuTarget>& targets) {
  std::string listing;
  for (const NpuTarget& target : targets) {
    listing += (listing.empty() ? "" : ", ") + target.name + " (" + target.soc + ", HTP v" +
               std::to_string(target.htp_arch) + ")";
  }
  return listing;
}

}  // namespace

std::vector<NpuTarget> ParseTargets(const ffi::String& text) {
  const json::Object header = ParseDescription(text, "NPU module: header");
  std::vector<NpuTarget> targets;
  if (header.find(ffi::String("targets")) == header.end()) return targets;
  for (const json::Value& target : Member<json::Array>(header, "targets")) {
    targets.push_back(ParseTarget(target));
  }
  return targets;
}

std::optional<int64_t> SocId(const Settings& settings) {
  const std::string text = settings.Get("device.soc_id");
  int64_t id = 0;
  if (!text.empty()) {
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), id);
    HETERO_CHECK(parsed.ec == std::errc() && parsed.ptr == text.data() + text.size(), ValueError)
        << "HETERO_SOC_ID is '" << text << "', not the number of a SoC";
    return id;
  }
  std::ifstream file(kSocFile);
  if (file >> id) return id;
  return std::nullopt;
}

size_t PickTarget(const std::vector<NpuTarget>& targets, const Settings& settings) {
  const std::string wanted = settings.Get("npu.target");
  if (!wanted.empty()) {
    const auto found = std::find_if(targets.begin(), targets.end(),
                                    [&](const NpuTarget& target) { return target.name == wanted; });
    HETERO_CHECK(found != targets.end(), ValueError)
        << "HETERO_NPU_TARGET is " << wanted << "; the NPU part is compiled for "
        << Listing(targets);
    return static_cast<size_t>(found - targets.begin());
  }
  const std::optional<int64_t> soc = SocId(settings);
  if (!soc.has_value()) return 0;
  for (size_t i = 0; i < targets.size(); ++i) {
    const std::vector<int64_t>& ids = targets[i].soc_ids;
    if (ids.empty() || std::find(ids.begin(), ids.end(), *soc) != ids.end()) return i;
  }
  TVM_FFI_THROW(ValueError) << "the NPU part is compiled for " << Listing(targets)
                            << ", this device is SoC " << *soc
                            << "; build it with this device's --target";
  TVM_FFI_UNREACHABLE();
}

}  // namespace hetero_tvm::runtime::npu
