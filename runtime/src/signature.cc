/*!
 * \file signature.cc
 * \brief libcrypto by name, and the file of trusted keys.
 */
#include "signature.h"

#include <dlfcn.h>
#include <tvm/ffi/error.h>

#include <cstdint>
#include <fstream>

#include "check.h"

namespace hetero_tvm::runtime {
namespace {

constexpr size_t kSignatureBytes = 64;
constexpr size_t kKeyBytes = 32;
constexpr size_t kBlockBytes = kSignatureBytes + kKeyBytes + 8;
constexpr const char* kContext = "hetero_tvm artefact 1";  // a zero follows it, then the footer
constexpr const char* kKind = "ed25519 ";

/*! \brief What we call of OpenSSL 1.1.1 or later, or BoringSSL; their C interface agrees here. */
class Crypto {
 public:
  Crypto() {
    for (const char* name : {"libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so"}) {
      library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
      if (library_ != nullptr) break;
    }
    HETERO_CHECK(library_ != nullptr, EnvironmentProblem)
        << "only signed artefacts are accepted here, and there is no libcrypto to check signatures "
           "with; install OpenSSL (Debian: apt-get install libssl3)";
  }

  bool Verifies(const std::string& signature, const std::string& key,
                const std::string& text) const {
    const auto number = Find<int (*)(const char*)>("OBJ_sn2nid")("ED25519");
    void* public_key = Find<void* (*)(int, void*, const char*, size_t)>(
        "EVP_PKEY_new_raw_public_key")(number, nullptr, key.data(), key.size());
    void* context = Find<void* (*)()>("EVP_MD_CTX_new")();
    const bool ready = public_key != nullptr && context != nullptr &&
                       Find<int (*)(void*, void*, void*, void*, void*)>("EVP_DigestVerifyInit")(
                           context, nullptr, nullptr, nullptr, public_key) == 1;
    const bool good =
        ready && Find<int (*)(void*, const char*, size_t, const char*, size_t)>("EVP_DigestVerify")(
                     context, signature.data(), signature.size(), text.data(), text.size()) == 1;
    Find<void (*)(void*)>("EVP_MD_CTX_free")(context);
    Find<void (*)(void*)>("EVP_PKEY_free")(public_key);
    return good;
  }

 private:
  template <typename Function>
  Function Find(const char* name) const {
    void* found = dlsym(library_, name);
    HETERO_CHECK(found != nullptr, EnvironmentProblem)
        << "libcrypto has no " << name << ", so signatures cannot be checked; install OpenSSL 3";
    return reinterpret_cast<Function>(found);
  }

  void* library_ = nullptr;  // never unloaded: it may have its own threads and exit handlers
};

/*! \brief `key` as files hold it, in base64. */
std::string Line(const std::string& key) {
  constexpr const char* kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text = kKind;
  for (size_t at = 0; at < key.size(); at += 3) {
    uint32_t bits = 0;
    for (size_t i = 0; i < 3; ++i) {
      bits = bits << 8 | (at + i < key.size() ? static_cast<uint8_t>(key[at + i]) : 0U);
    }
    for (size_t i = 0; i < 4; ++i) {
      text += at + i <= key.size() ? kDigits[bits >> (18 - 6 * i) & 63] : '=';
    }
  }
  return text;
}

bool IsTrusted(const std::string& key, const std::string& trusted) {
  std::ifstream file(trusted);
  HETERO_CHECK(file.good(), ValueError) << trusted << ": no file of trusted keys";
  const std::string wanted = Line(key);
  std::string line;
  while (std::getline(file, line)) {
    line.erase(line.find_last_not_of(" \t\r") + 1);
    if (line == wanted || line.rfind(wanted + " ", 0) == 0) return true;
  }
  return false;
}

}  // namespace

void CheckSignature(const std::string& name, const std::string& footer, const std::string& block,
                    const std::string& trusted) {
  HETERO_CHECK(block.size() == kBlockBytes, ValueError)
      << name << ": not signed, and only artefacts signed by a key in " << trusted
      << " are accepted here";
  const std::string key = block.substr(kSignatureBytes, kKeyBytes);
  HETERO_CHECK(IsTrusted(key, trusted), ValueError)
      << name << ": signed by " << Line(key) << ", which is not in " << trusted;
  const std::string text = std::string(kContext) + '\0' + footer;
  HETERO_CHECK(Crypto().Verifies(block.substr(0, kSignatureBytes), key, text), ValueError)
      << name << ": its signature is not of this artefact: it was changed; deploy it again";
}

}  // namespace hetero_tvm::runtime
