/*!
 * \file settings.cc
 * \brief The table of settings with their environment variables.
 */
#include "settings.h"

#include <tvm/ffi/error.h>

#include <array>
#include <cstdlib>
#include <filesystem>

namespace hetero_tvm::runtime {
namespace {

struct Setting {
  const char* key;
  const char* variable;
};

constexpr std::array kSettings = {
    Setting{"opencl.library", "HETERO_OPENCL_LIB"},  // the only library to try, when given
    Setting{"opencl.fallback_library",
            "HETERO_OPENCL_FALLBACK_LIB"},  // tried after the installed ones
    Setting{"opencl.device",
            "HETERO_OPENCL_DEVICE"},                 // index, or part of a device or platform name
    Setting{"opencl.unfit", "HETERO_OPENCL_UNFIT"},  // why it must not be used
    Setting{"opencl.memory", "HETERO_OPENCL_MEMORY"},  // "svm", "dma_buf", ...
    Setting{"opencl.images", "HETERO_OPENCL_IMAGES"},  // 0 or 1; else where it is no processor
    Setting{"kernels.unproven", "HETERO_UNPROVEN_KERNELS"},  // tell or refuse
    Setting{"cache.directory", "HETERO_CACHE_DIR"},
    Setting{"memory.limit", "HETERO_MEMORY_LIMIT"},           // of device memory, with K, M or G
    Setting{"sync.implicit_waits", "HETERO_IMPLICIT_WAITS"},  // 0 or 1
    Setting{"sync.fast", "HETERO_FAST_SYNC"},                 // 0 or 1
    Setting{"sync.poll_cpu", "HETERO_POLL_CPU"},              // 0 or 1
    Setting{"gpu.share", "HETERO_GPU_SHARE"},                 // of its time: 0.6, or 60%
    Setting{"trusted.keys", "HETERO_TRUSTED_KEYS"},           // file; else nothing has to be signed
    Setting{"npu.threads", "HETERO_NPU_THREADS"},             // of regions on ONNX Runtime's CPU
    Setting{"npu.packed", "HETERO_NPU_PACKED"},  // 0: ONNX Runtime's CPU makes no faster copies
    Setting{"device.limit_s", "HETERO_DEVICE_LIMIT_S"},  // of a call into a driver; 0: none
    Setting{"device.soc_id", "HETERO_SOC_ID"},           // else the kernel's word
    Setting{"npu.target", "HETERO_NPU_TARGET"},          // of a bundle's; else by the SoC
    Setting{"npu.unfit", "HETERO_NPU_UNFIT"},  // why it must not be used, as a reader may know
    Setting{"fallback.allow", "HETERO_ALLOW_FALLBACK"},  // 0 or 1: see Fallbacks
    Setting{"ort.library", "HETERO_ORT_LIB"},
    Setting{"qnn.library", "HETERO_QNN_LIB"},      // the execution provider's plug-in
    Setting{"qnn.backend", "HETERO_QNN_BACKEND"},  // libQnnHtp.so
};

const Setting& Find(const std::string& key) {
  for (const Setting& setting : kSettings) {
    if (key == setting.key) return setting;
  }
  std::string known;
  for (const Setting& setting : kSettings) known += std::string(" ") + setting.key;
  TVM_FFI_THROW(ValueError) << "unknown setting '" << key << "'; known settings:" << known;
  TVM_FFI_UNREACHABLE();
}

}  // namespace

void Settings::Set(const std::string& key, const std::string& value) {
  Find(key);
  const std::scoped_lock lock(mutex_);
  values_[key] = value;
}

std::string Settings::Get(const std::string& key) const {
  const Setting& setting = Find(key);
  const std::scoped_lock lock(mutex_);
  const auto found = values_.find(key);
  if (found != values_.end()) return found->second;
  const char* value = std::getenv(setting.variable);
  return value == nullptr ? "" : value;
}

std::string Settings::CacheDirectory() const {
  namespace fs = std::filesystem;
  std::string ours = Get("cache.directory");
  if (!ours.empty()) return ours;
  const char* caches = std::getenv("XDG_CACHE_HOME");
  if (caches != nullptr && *caches != '\0') return (fs::path(caches) / "hetero_tvm").string();
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return "";
  return (fs::path(home) / ".cache" / "hetero_tvm").string();
}

}  // namespace hetero_tvm::runtime
