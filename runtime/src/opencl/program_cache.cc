/*!
 * \file opencl/program_cache.cc
 * \brief Building of OpenCL programs and the files that save building them again.
 */
#include "program_cache.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>
#include <vector>

#include "../wire.h"

namespace hetero_tvm::runtime::opencl {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMagic = "hetero_tvm opencl 1";
constexpr const char* kOptions = "";  // as TVM's own runtime builds them
constexpr int kLogLines = 12;
constexpr size_t kLargestBinary = size_t{1} << 28U;  // a kernel has some hundred kilobytes
constexpr size_t kLongestLog = size_t{1} << 20U;

/*! \brief FNV-1a: finds accidental damage and names files; equality is decided on the whole text.
 */
uint64_t Fingerprint(std::string_view bytes, uint64_t seed = 0xcbf29ce484222325U) {
  for (const char byte : bytes) {
    seed = (seed ^ static_cast<unsigned char>(byte)) * 0x100000001b3U;
  }
  return seed;
}

std::string FirstLines(const std::string& text, int count) {
  std::istringstream lines(text);
  std::string line;
  std::string taken;
  while (count > 0 && std::getline(lines, line)) {
    if (line.find_first_not_of(" \t\r") == std::string::npos || line[0] == '\0') continue;
    taken += "\n  " + line;
    --count;
  }
  return taken;
}

}  // namespace

ProgramCache::ProgramCache(const ClDevice& device, cl_context context, std::string directory,
                           Counters& counters)
    : device_(device),
      api_(*device.api),
      context_(context),
      directory_(std::move(directory)),
      counters_(counters) {}

std::string ProgramCache::Identity(std::string_view source) const {
  WireWriter identity;
  for (const std::string* part : {&device_.platform_name, &device_.platform_version, &device_.name,
                                  &device_.version, &device_.driver_version}) {
    identity.Text(*part);
  }
  identity.Number<int64_t>(device_.compute_units);
  identity.Text(kOptions);
  identity.Text(source);
  return identity.Finish();
}

ClHandle<cl_program> ProgramCache::Build(const std::string& name, std::string_view source) const {
  if (directory_.empty() || device_.keeps_programs) {
    counters_.cache_misses.Add();
    return FromSource(name, source);
  }
  const std::string identity = Identity(source);
  char file[24];
  std::snprintf(file, sizeof(file), "%016llx.clbin",
                static_cast<unsigned long long>(Fingerprint(identity)));
  const std::string path = (fs::path(directory_) / file).string();
  if (const auto binary = ReadBinary(path, identity)) {
    ClHandle<cl_program> program = FromBinary(*binary);
    if (program.Get() != nullptr) {
      counters_.cache_hits.Add();
      return program;
    }
    counters_.cache_corrupt.Add();
  }
  counters_.cache_misses.Add();
  ClHandle<cl_program> program = FromSource(name, source);
  WriteBinary(path, identity, program.Get());
  return program;
}

std::optional<std::string> ProgramCache::ReadBinary(const std::string& path,
                                                    const std::string& identity) const {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  bool is_sound = false;
  std::string_view found;
  std::string_view binary;
  try {
    WireReader reader(bytes, "program cache entry");
    if (reader.Text() == kMagic) {
      found = reader.Text();
      const auto checksum = reader.Number<uint64_t>();
      binary = reader.Text();
      reader.ExpectEnd();
      is_sound = checksum == Fingerprint(binary, Fingerprint(found));
    }
  } catch (const tvm::ffi::Error&) {
    is_sound = false;  // shorter or longer than it says
  }
  if (!is_sound) {
    counters_.cache_corrupt.Add();
    return std::nullopt;
  }
  // Another program with the same fingerprint is a miss, not damage.
  if (found != identity) return std::nullopt;
  return std::string(binary);
}

void ProgramCache::WriteBinary(const std::string& path, const std::string& identity,
                               cl_program program) const {
  size_t size = 0;
  if (api_.GetProgramInfo(program, kProgramBinarySizes, sizeof(size), &size, nullptr) != kSuccess ||
      size == 0 || size > kLargestBinary) {
    return;  // a driver without binaries, or not in its right mind: nothing to keep
  }
  std::string binary(size, '\0');
  char* place = binary.data();
  if (api_.GetProgramInfo(program, kProgramBinaries, sizeof(place), static_cast<void*>(&place),
                          nullptr) != kSuccess) {
    return;
  }
  WireWriter entry;
  entry.Text(kMagic);
  entry.Text(identity);
  entry.Number<uint64_t>(Fingerprint(binary, Fingerprint(identity)));
  entry.Text(binary);
  static std::atomic<uint64_t> serial{0};
  const std::string beside =
      path + "." + std::to_string(getpid()) + "." + std::to_string(serial.fetch_add(1));
  std::error_code error;  // a full or read-only disk costs time at the next start, nothing else
  fs::create_directories(directory_, error);
  {
    std::ofstream file(beside, std::ios::binary);
    file << entry.Finish();
    if (!file.flush()) {
      fs::remove(beside, error);
      return;
    }
  }
  fs::rename(beside, path, error);
  if (error) fs::remove(beside, error);
}

ClHandle<cl_program> ProgramCache::FromBinary(const std::string& binary) const {
  const auto* bytes = reinterpret_cast<const unsigned char*>(binary.data());
  const size_t size = binary.size();
  cl_int accepted = kSuccess;
  cl_int status = kSuccess;
  cl_program handle =
      api_.CreateProgramWithBinary(context_, 1, &device_.id, &size, &bytes, &accepted, &status);
  if (status != kSuccess || handle == nullptr) return {};
  ClHandle<cl_program> program(handle, api_.ReleaseProgram);
  if (accepted != kSuccess) return {};
  if (api_.BuildProgram(handle, 1, &device_.id, kOptions, nullptr, nullptr) != kSuccess) return {};
  return program;
}

ClHandle<cl_program> ProgramCache::FromSource(const std::string& name,
                                              std::string_view source) const {
  const char* text = source.data();
  const size_t size = source.size();
  cl_int status = kSuccess;
  cl_program handle = api_.CreateProgramWithSource(context_, 1, &text, &size, &status);
  CheckCl(status, handle, "clCreateProgramWithSource");
  ClHandle<cl_program> program(handle, api_.ReleaseProgram);
  status = api_.BuildProgram(handle, 1, &device_.id, kOptions, nullptr, nullptr);
  if (status == kSuccess) return program;
  size_t log_size = 0;
  api_.GetProgramBuildInfo(handle, device_.id, kProgramBuildLog, 0, nullptr, &log_size);
  log_size = std::min(log_size, kLongestLog);
  std::string log(log_size, '\0');
  api_.GetProgramBuildInfo(handle, device_.id, kProgramBuildLog, log_size, log.data(), nullptr);
  TVM_FFI_THROW(DeviceFailure) << "OpenCL: kernel " << name << " does not compile on "
                               << device_.name << " (clBuildProgram: " << ClProblem(status)
                               << "):" << FirstLines(log, kLogLines);
  TVM_FFI_UNREACHABLE();
}

}  // namespace hetero_tvm::runtime::opencl
