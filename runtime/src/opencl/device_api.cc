/*!
 * \file opencl/device_api.cc
 * \brief TVM's device interface over one OpenCL session.
 */
#include "device_api.h"

#include <tvm/ffi/string.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "../border.h"
#include "../check.h"
#include "../watch.h"
#include "dma_buf.h"

namespace hetero_tvm::runtime::opencl {
namespace {

namespace ffi = tvm::ffi;

/*! \brief Where compiled programs are kept; empty when there is no place. */
std::string ProgramDirectory(const Settings& settings) {
  const std::string cache = settings.CacheDirectory();
  return cache.empty() ? "" : (std::filesystem::path(cache) / "opencl").string();
}

/*! \brief The setting `memory.limit`: bytes, or with K, M or G behind; none is no limit. */
size_t MemoryLimit(const Settings& settings) {
  const std::string text = settings.Get("memory.limit");
  if (text.empty()) return std::numeric_limits<size_t>::max();
  size_t count = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), count);
  const std::string unit(parsed.ptr, text.data() + text.size());
  const unsigned shift = unit.empty() ? 0U : unit == "K" ? 10U : unit == "M" ? 20U : 30U;
  HETERO_CHECK(parsed.ec == std::errc() && (shift != 30U || unit == "G") &&
                   count <= std::numeric_limits<size_t>::max() >> shift,
               ValueError)
      << "HETERO_MEMORY_LIMIT is '" << text << "': give bytes, or a number with K, M or G behind";
  return count << shift;
}

/*!
 * \brief The setting `opencl.images`: whether kernels may read weights as images where they can.
 *
 * A processor has no texture cache: an OpenCL device that is one reads them as memory, unless it is
 * asked for.
 */
bool MayUseImages(const Settings& settings, const ClDevice& device) {
  const std::string asked = settings.Get("opencl.images");
  HETERO_CHECK(asked.empty() || asked == "0" || asked == "1", ValueError)
      << "HETERO_OPENCL_IMAGES is '" << asked << "': give 0 or 1";
  return asked.empty() ? device.type != "cpu" : asked == "1";
}

void CheckNumber(tvm::Device device) {
  HETERO_CHECK(device.device_id == 0, ValueError)
      << "opencl:" << device.device_id
      << ": only opencl:0 is open; choose what it is with HETERO_OPENCL_DEVICE";
}

}  // namespace

ClSession& DeviceApi::Session() {
  if (ClSession* open = session_.load()) return *open;
  const std::scoped_lock lock(mutex_);
  if (owner_ == nullptr) {
    Watch::Start(settings_);
    ClDevice device = platforms_.Select();
    if (!MayUseImages(settings_, device)) device.image_pixels = 0;
    owner_ = std::make_unique<ClSession>(std::move(device), settings_.Get("opencl.memory"),
                                         ProgramDirectory(settings_), MemoryLimit(settings_),
                                         options_, counters_, trace_);
    session_.store(owner_.get());
  }
  return *owner_;
}

void DeviceApi::WaitIfOpen() {
  if (ClSession* open = session_.load()) open->Wait();
}

void DeviceApi::WaitIfOpen(uint64_t ticket) {
  if (ClSession* open = session_.load()) open->Wait(ticket);
}

uint64_t DeviceApi::FenceIfOpen() {
  ClSession* open = session_.load();
  return open == nullptr ? 0 : open->Fence();
}

size_t DeviceApi::HeldBytesIfOpen() {
  ClSession* open = session_.load();
  return open == nullptr ? 0 : open->HeldBytes();
}

ffi::Optional<ffi::Tensor> DeviceApi::MapFile(const ffi::String& path, int64_t offset,
                                              int64_t bytes) {
  HETERO_CHECK(offset >= 0 && bytes >= 0, ValueError) << bytes << " bytes at " << offset;
  ClSession& session = Session();
  void* data =
      session.MapFile(std::string(path), static_cast<uint64_t>(offset), static_cast<size_t>(bytes));
  if (data == nullptr) return std::nullopt;
  struct Mapped {
    ClSession* session;
    void AllocData(DLTensor* tensor, void* data) { tensor->data = data; }
    void FreeData(DLTensor* tensor) { session->Free(tensor->data); }
  };
  return ffi::Tensor::FromNDAlloc(Mapped{&session}, ffi::Shape({bytes}), DLDataType{kDLUInt, 8, 1},
                                  DLDevice{kDLOpenCL, 0}, data);
}

void DeviceApi::SetProfilingIfOpen(bool on) {
  if (ClSession* open = session_.load()) open->SetProfiling(on);
}

ffi::Array<ffi::Map<ffi::String, ffi::Any>> DeviceApi::Describe() {
  const std::scoped_lock lock(mutex_);
  Watch::Start(settings_);
  ffi::Array<ffi::Map<ffi::String, ffi::Any>> all;
  for (const ClDevice& device : platforms_.All()) {
    const bool selected = owner_ != nullptr && owner_->device().id == device.id;
    const MemoryChoice memory = selected ? owner_->memory_choice() : ChooseMemory(device, "", [&] {
      const std::string why(WhyNoDmaBuf(device));
      return why.empty() ? "it is tried when the device is opened" : why;
    });
    ffi::Map<ffi::String, ffi::Any> entry;
    entry.Set("index", static_cast<int64_t>(all.size()));
    entry.Set("name", ffi::String(device.name));
    entry.Set("platform", ffi::String(device.platform_name));
    entry.Set("version", ffi::String(device.version));
    entry.Set("driver_version", ffi::String(device.driver_version));
    entry.Set("library", ffi::String(device.api->library));
    entry.Set("type", ffi::String(device.type));
    entry.Set("half", device.has_half);
    entry.Set("memory", ffi::String(MemoryKindName(memory.kind)));
    entry.Set("memory_why", ffi::String(memory.why.empty() ? "nothing is better" : memory.why));
    entry.Set("selected", selected);
    entry.Set("compute_units", device.compute_units);
    entry.Set("max_work_group_size", device.max_work_group_size);
    entry.Set("local_memory_bytes", device.local_memory_bytes);
    entry.Set("global_memory_bytes", device.global_memory_bytes);
    entry.Set("max_allocation_bytes", device.max_allocation_bytes);
    entry.Set("image_pixels", device.image_pixels);
    entry.Set("sub_buffer_alignment_bytes", device.sub_buffer_alignment_bytes);
    all.push_back(entry);
  }
  return all;
}

void DeviceApi::SetDevice(tvm::Device device) {
  AtBorder([&] { CheckNumber(device); });
}

void DeviceApi::GetAttr(tvm::Device device, tvm::runtime::DeviceAttrKind kind, ffi::Any* rv) {
  AtBorder([&] { ReadAttr(device, kind, rv); });
}

void DeviceApi::ReadAttr(tvm::Device device, tvm::runtime::DeviceAttrKind kind, ffi::Any* rv) {
  using Kind = tvm::runtime::DeviceAttrKind;
  const ClSession* session = nullptr;
  try {
    if (device.device_id == 0) session = &Session();
  } catch (const ffi::Error&) {
    session = nullptr;  // no driver: the device does not exist, and has no attributes
  }
  if (kind == Kind::kExist) *rv = session != nullptr;
  if (session == nullptr || kind == Kind::kExist) return;
  const ClDevice& about = session->device();
  switch (kind) {
    case Kind::kMaxThreadsPerBlock:
      *rv = about.max_work_group_size;
      break;
    case Kind::kWarpSize:
      *rv = 1;  // OpenCL promises no lockstep; the target's spec knows the wave size
      break;
    case Kind::kMaxSharedMemoryPerBlock:
      *rv = about.local_memory_bytes;
      break;
    case Kind::kComputeVersion:
      *rv = ffi::String(about.version);
      break;
    case Kind::kDeviceName:
      *rv = ffi::String(about.name);
      break;
    case Kind::kMaxClockRate:
      *rv = about.clock_mhz * 1000;  // kHz, as TVM's other devices say it
      break;
    case Kind::kMultiProcessorCount:
      *rv = about.compute_units;
      break;
    case Kind::kMaxThreadDimensions: {
      const std::vector<size_t>& sizes = about.max_work_item_sizes;
      *rv = ffi::String("[" + std::to_string(sizes[0]) + ", " + std::to_string(sizes[1]) + ", " +
                        std::to_string(sizes[2]) + "]");
      break;
    }
    case Kind::kDriverVersion:
      *rv = ffi::String(about.driver_version);
      break;
    case Kind::kL2CacheSizeBytes:
      *rv = about.cache_bytes;
      break;
    case Kind::kTotalGlobalMemory:
      *rv = about.global_memory_bytes;
      break;
    default:
      break;  // not known to OpenCL: stays None
  }
}

void* DeviceApi::AllocDataSpace(tvm::Device device, size_t bytes, size_t alignment, DLDataType) {
  return AtBorder([&] {
    CheckNumber(device);
    return Session().Alloc(bytes, alignment);
  });
}

void DeviceApi::FreeDataSpace(tvm::Device, void* data) {
  AtBorder([&] { Session().Free(data); });
}

void DeviceApi::StreamSync(tvm::Device, TVMStreamHandle) {
  AtBorder([&] { WaitForBoth(); });
}

void DeviceApi::WaitForBoth() {
  {
    const TraceSpan span(trace_, TraceKind::kWait, "sync", WaitDetail(0, 1));
    WaitIfOpen();
  }
  const TraceSpan span(trace_, TraceKind::kWait, "sync", WaitDetail(0, 2));
  wait_for_npu_();
}

void DeviceApi::CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset,
                               size_t bytes, tvm::Device, tvm::Device, DLDataType,
                               TVMStreamHandle) {
  AtBorder([&] {
    WaitForBoth();
    const TraceSpan span(trace_, TraceKind::kCopy, "copy", static_cast<int64_t>(bytes));
    std::memmove(static_cast<char*>(to) + to_offset, static_cast<const char*>(from) + from_offset,
                 bytes);
    counters_.copies.Add();
    counters_.bytes_copied.Add(static_cast<int64_t>(bytes));
  });
}

}  // namespace hetero_tvm::runtime::opencl
