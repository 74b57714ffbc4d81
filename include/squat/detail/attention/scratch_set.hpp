// Memory that tasks compute in.
#pragma once

#include <atomic>
#include <memory>
#include <squat/matrix.hpp>
#include <thread>
#include <vector>

namespace squat::detail {

/// Objects of which each task of a call borrows one. Not moved while they are lent.
template <class T>
class ScratchSet {
  /// One that a processor exchanges by itself: RISC-V's g++ asks a library for bytes.
  using Flag = std::atomic<int>;

 public:
  /// Makes sure of `count` objects, while none is lent. The only call that can fail.
  void reserve(Index count) {
    while (static_cast<Index>(slots_.size()) < count) slots_.push_back(std::make_unique<Slot>());
  }
  /// All objects, while none is lent.
  template <class Use>
  void for_each(const Use& use) const {
    for (const auto& slot : slots_) use(slot->object);
  }
  Index bytes() const { return static_cast<Index>(slots_.size() * sizeof(Slot)); }

  /// Lent until it is destroyed.
  class Loan {
   public:
    explicit Loan(Flag& is_lent, T& object) : is_lent_(is_lent), object_(object) {}
    ~Loan() { is_lent_.store(0, std::memory_order_release); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    T& operator*() const { return object_; }
    T* operator->() const { return &object_; }

   private:
    Flag& is_lent_;
    T& object_;
  };

  /// An object that nobody else has. Waits only where more tasks run at the same time than
  /// Executor::concurrency() said, for one of them to end.
  Loan borrow() noexcept {
    for (;; std::this_thread::yield())
      for (const auto& slot : slots_)
        if (slot->is_lent.exchange(1, std::memory_order_acquire) == 0)
          return Loan(slot->is_lent, slot->object);
  }

 private:
  struct Slot {
    T object;
    Flag is_lent{0};
  };

  std::vector<std::unique_ptr<Slot>> slots_;
};

}  // namespace squat::detail
