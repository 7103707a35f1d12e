/*!
 * \file opencl/platforms.cc
 * \brief Enumeration of OpenCL devices over several libraries, and the choice of one.
 */
#include "platforms.h"

#include <algorithm>
#include <cctype>
#include <utility>

#include "../check.h"

namespace hetero_tvm::runtime::opencl {
namespace {

constexpr const char* kInstallHint =
    "install a driver for your GPU, or a CPU driver: pip install intel-opencl-rt "
    "intel-cmplr-lib-rt, or apt-get install pocl-opencl-icd";

// No driver names itself at such length, has so many platforms or devices, or
// wants so many bytes: it is not sane.
constexpr size_t kLongestText = size_t{1} << 20U;
constexpr cl_uint kMostObjects = 1024;
constexpr size_t kMostPadding = size_t{1} << 20U;
// A kernel counts pixels in an int.
constexpr size_t kMostPixels = size_t{1} << 30U;

template <typename Call, typename Object>
std::string TextInfo(const Call& call, Object object, cl_uint key, const char* name) {
  size_t size = 0;
  const cl_int asked = call(object, key, 0, nullptr, &size);
  if (asked == kInvalidValue) return "";  // a question that the driver does not know
  CheckCl(asked, name);
  HETERO_CHECK(size <= kLongestText, DeviceFailure)
      << "OpenCL: " << name << " speaks of a text of " << size << " bytes; update the driver";
  std::string text(size, '\0');
  if (size != 0) CheckCl(call(object, key, size, text.data(), nullptr), name);
  text.resize(std::min(text.size(), text.find('\0')));
  return text;
}

/*! \brief A number of type T; `missing` where the driver does not know the question. */
template <typename T>
T NumberInfo(const ClApi& api, cl_device_id device, cl_uint key, T missing = {}) {
  T value{};
  const cl_int asked = api.GetDeviceInfo(device, key, sizeof(T), &value, nullptr);
  if (asked == kInvalidValue) return missing;
  CheckCl(asked, "clGetDeviceInfo");
  return value;
}

bool HasWord(const std::string& words, const std::string& word) {
  return (" " + words + " ").find(" " + word + " ") != std::string::npos;
}

DmaBufImport ReadDmaBufImport(const std::string& extensions) {
  if (HasWord(extensions, "cl_qcom_dmabuf_host_ptr")) {
    const bool is_coherent = HasWord(extensions, "cl_qcom_ext_host_ptr_iocoherent");
    return is_coherent ? DmaBufImport::kYes : DmaBufImport::kIncoherent;
  }
  return HasWord(extensions, "cl_khr_external_memory_dma_buf") ? DmaBufImport::kWithoutAddress
                                                               : DmaBufImport::kNone;
}

/*!
 * \brief Whether a driver has a cache of its own on disk, and no binaries at hand.
 *
 * PoCL compiles a kernel when it is launched, for the launch's group size, and keeps that. Asked
 * for a binary it compiles another version first, for any size: for one of MiniLM's kernels that
 * took an emulated processor more than a minute. No query of OpenCL's tells so.
 */
bool KeepsPrograms(const std::string& icd_suffix) { return icd_suffix == "POCL"; }

const char* TypeName(cl_bitfield type) {
  if ((type & kDeviceTypeGpu) != 0) return "gpu";
  return (type & kDeviceTypeAccelerator) != 0 ? "accelerator" : "cpu";
}

ClDevice Describe(const ClApi& api, cl_platform_id platform, cl_device_id id) {
  ClDevice device;
  device.api = &api;
  device.platform = platform;
  device.id = id;
  device.name = TextInfo(api.GetDeviceInfo, id, kDeviceName, "clGetDeviceInfo");
  device.platform_name =
      TextInfo(api.GetPlatformInfo, platform, kPlatformName, "clGetPlatformInfo");
  device.platform_version =
      TextInfo(api.GetPlatformInfo, platform, kPlatformVersion, "clGetPlatformInfo");
  device.version = TextInfo(api.GetDeviceInfo, id, kDeviceVersion, "clGetDeviceInfo");
  device.driver_version = TextInfo(api.GetDeviceInfo, id, kDriverVersion, "clGetDeviceInfo");
  device.type = TypeName(NumberInfo<cl_bitfield>(api, id, kDeviceType));
  const std::string extensions =
      TextInfo(api.GetDeviceInfo, id, kDeviceExtensions, "clGetDeviceInfo");
  device.has_half = HasWord(extensions, "cl_khr_fp16");
  device.dma_buf = ReadDmaBufImport(extensions);
  if (device.dma_buf == DmaBufImport::kYes) {
    // Drivers disagree about its width; the wider one takes both.
    device.import_padding_bytes = NumberInfo<cl_ulong>(api, id, kDeviceExtMemPadding);
    HETERO_CHECK(device.import_padding_bytes <= kMostPadding, DeviceFailure)
        << "OpenCL: " << device.name << " asks for " << device.import_padding_bytes
        << " bytes behind imported memory; update the driver";
  }
  device.keeps_programs = KeepsPrograms(
      TextInfo(api.GetPlatformInfo, platform, kPlatformIcdSuffix, "clGetPlatformInfo"));
  // Drivers of OpenCL 1.2 do not know the question.
  const auto svm = api.HasSvm() ? NumberInfo<cl_bitfield>(api, id, kDeviceSvmCapabilities) : 0;
  device.has_coarse_svm = (svm & kSvmCoarseGrain) != 0;
  device.has_fine_svm = (svm & kSvmFineGrain) != 0;
  device.has_system_svm = (svm & kSvmFineGrainSystem) != 0;
  device.compute_units = NumberInfo<cl_uint>(api, id, kDeviceMaxComputeUnits, 1);
  device.clock_mhz = NumberInfo<cl_uint>(api, id, kDeviceMaxClockFrequency);
  device.max_work_group_size =
      static_cast<int64_t>(NumberInfo<size_t>(api, id, kDeviceMaxWorkGroupSize, 1));
  device.max_work_item_sizes.resize(3, 1);
  size_t sizes[3] = {};
  if (api.GetDeviceInfo(id, kDeviceMaxWorkItemSizes, sizeof(sizes), sizes, nullptr) == kSuccess) {
    device.max_work_item_sizes.assign(sizes, sizes + 3);
  }
  const auto bytes = [&](cl_uint key) {
    return static_cast<int64_t>(NumberInfo<cl_ulong>(api, id, key));
  };
  device.local_memory_bytes = bytes(kDeviceLocalMemSize);
  device.global_memory_bytes = bytes(kDeviceGlobalMemSize);
  device.max_allocation_bytes = bytes(kDeviceMaxMemAllocSize);
  device.cache_bytes = bytes(kDeviceGlobalMemCacheSize);
  device.sub_buffer_alignment_bytes =
      std::max<int64_t>(1, NumberInfo<cl_uint>(api, id, kDeviceMemBaseAddrAlign, 8) / 8);
  if (api.CreateImage != nullptr && NumberInfo<cl_bool>(api, id, kDeviceImageSupport) != 0) {
    const auto pixels = NumberInfo<size_t>(api, id, kDeviceImageMaxBufferSize);
    device.image_pixels = static_cast<int64_t>(std::min(pixels, kMostPixels));
  }
  return device;
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return text;
}

bool IsIndex(const std::string& text) {
  return !text.empty() && text.size() < 6 &&
         std::all_of(
             text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c) != 0; });
}

}  // namespace

void Platforms::AddDevices(const ClApi& api) {
  cl_uint count = 0;
  // A loader without drivers answers with an error (CL_PLATFORM_NOT_FOUND_KHR) or with none.
  const cl_int counted = api.GetPlatformIDs(0, nullptr, &count);
  if (counted != kSuccess || count == 0) {
    tried_ += "; " + api.library + ": no OpenCL platform";
    if (counted != kSuccess && counted != kPlatformNotFound) {
      tried_ += ", clGetPlatformIDs failed: " + ClProblem(counted);
    }
    return;
  }
  count = std::min(count, kMostObjects);
  std::vector<cl_platform_id> platforms(count);
  const cl_int status = api.GetPlatformIDs(count, platforms.data(), nullptr);
  if (status != kSuccess) {
    tried_ += "; " + api.library + ": clGetPlatformIDs failed: " + ClProblem(status);
    return;
  }
  const size_t before = devices_.size();
  for (cl_platform_id platform : platforms) {
    cl_uint found = 0;
    cl_int asked = api.GetDeviceIDs(platform, kDeviceTypeAll, 0, nullptr, &found);
    found = std::min(found, kMostObjects);
    std::vector<cl_device_id> ids(found);
    if (asked == kSuccess && found != 0) {
      asked = api.GetDeviceIDs(platform, kDeviceTypeAll, found, ids.data(), nullptr);
    }
    if (asked != kSuccess && asked != kDeviceNotFound) {
      tried_ += "; " + api.library + ": clGetDeviceIDs failed: " + ClProblem(asked);
    }
    if (asked != kSuccess) continue;
    for (cl_device_id id : ids) {
      try {
        devices_.push_back(Describe(api, platform, id));
      } catch (const tvm::ffi::Error& error) {
        tried_ += "; " + api.library + ": " + error.message();
      }
    }
  }
  if (devices_.size() == before) tried_ += "; " + api.library + ": platforms without a device";
}

bool Platforms::OpenNext() {
  if (!started_) {
    started_ = true;
    const std::string only = settings_.Get("opencl.library");
    if (!only.empty()) {
      candidates_ = {only};
    } else {
      candidates_ = {"libOpenCL.so.1", "libOpenCL.so", "/vendor/lib64/libOpenCL.so",
                     "/system/vendor/lib64/libOpenCL.so"};
      const std::string fallback = settings_.Get("opencl.fallback_library");
      if (!fallback.empty()) candidates_.push_back(fallback);
    }
  }
  if (candidates_.empty()) return false;
  const std::string candidate = candidates_.front();
  candidates_.erase(candidates_.begin());
  std::string why_not;
  std::unique_ptr<ClApi> api = ClApi::Load(candidate, &why_not);
  if (api == nullptr) {
    tried_ += "; " + why_not;
    return true;
  }
  // The same library under a second name (libOpenCL.so is a link to libOpenCL.so.1) adds nothing.
  for (const auto& known : libraries_) {
    if (known->GetPlatformIDs.Get() == api->GetPlatformIDs.Get()) return true;
  }
  AddDevices(*api);
  libraries_.push_back(std::move(api));
  return true;
}

std::string Platforms::Listing() const {
  std::string listing;
  for (size_t i = 0; i < devices_.size(); ++i) {
    listing += (i == 0 ? "" : ", ") + std::to_string(i) + ": " + devices_[i].name + " (" +
               devices_[i].platform_name + ")";
  }
  return listing;
}

std::vector<ClDevice> Platforms::All() {
  while (OpenNext()) {
  }
  return devices_;
}

const ClDevice* Platforms::Find(const std::function<bool(const ClDevice&)>& fits) {
  size_t seen = 0;
  do {
    for (; seen < devices_.size(); ++seen) {
      if (fits(devices_[seen])) return &devices_[seen];
    }
  } while (OpenNext());
  return nullptr;
}

ClDevice Platforms::Select() {
  const std::string unfit = settings_.Get("opencl.unfit");
  if (!unfit.empty()) TVM_FFI_THROW(EnvironmentProblem) << unfit;
  const std::string wanted = settings_.Get("opencl.device");
  const ClDevice* chosen = nullptr;
  if (IsIndex(wanted)) {
    const size_t index = std::stoul(wanted);
    while (devices_.size() <= index && OpenNext()) {
    }
    if (index < devices_.size()) chosen = &devices_[index];
  } else if (!wanted.empty()) {
    chosen = Find([name = Lower(wanted)](const ClDevice& device) {
      return Lower(device.name + "\n" + device.platform_name).find(name) != std::string::npos;
    });
  } else {
    chosen = Find([](const ClDevice& device) { return device.type == "gpu"; });
    if (chosen == nullptr) chosen = Find([](const ClDevice& device) { return device.has_half; });
    if (chosen == nullptr && !devices_.empty()) chosen = &devices_.front();
  }
  if (chosen != nullptr) return *chosen;
  if (devices_.empty()) {
    // What failed may work the next time that somebody asks.
    started_ = false;
    libraries_.clear();
    const std::string tried = std::exchange(tried_, "");
    TVM_FFI_THROW(EnvironmentProblem)
        << "no OpenCL device: " << kInstallHint << ". Tried" << tried.substr(1);
  }
  TVM_FFI_THROW(EnvironmentProblem)
      << "no OpenCL device '" << wanted << "'; by number there are " << Listing();
  TVM_FFI_UNREACHABLE();
}

}  // namespace hetero_tvm::runtime::opencl
