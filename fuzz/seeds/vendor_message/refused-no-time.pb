
todayE1